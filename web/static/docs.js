/**
 * Starts Swagger UI on /docs. Owns its options; knows nothing of the service but where its description is.
 */

window.SwaggerUIBundle({
  url: document.body.dataset.document,
  dom_id: "#docs",
  deepLinking: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  // Else it would ask a validator elsewhere for its opinion.
  validatorUrl: null,
});
