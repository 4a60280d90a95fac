/**
 * Starts Swagger UI on /docs. Owns its options; knows nothing of the service but where its description is.
 */

const place = document.getElementById("docs");

const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

window.SwaggerUIBundle({
  url: place.dataset.document,
  domNode: place,
  deepLinking: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  // Else it would ask a validator elsewhere for its opinion.
  validatorUrl: null,
});
