/**
 * Starts Swagger UI on /docs. Owns its options; knows nothing of the service but where its description is.
 */

const place = document.getElementById("docs");

/** A field with a label for screen readers. */
const labelled = ({ React: { createElement } }, text, field, props) =>
  createElement("label", {}, createElement("span", { className: "unseen" }, text), createElement(field, props));

/** It asks for the field of a file in a list by this name, says in the console that there is none, and takes a
 * field for files. What asks for it otherwise gets a field for text, as before. */
const fileField = ({ React }) => ({
  components: {
    JsonSchema_string_binary: (props) => React.createElement(props.getComponent("JsonSchema_string"), props),
  },
});

/** Fields that it leaves without a label. */
const labels = () => ({
  wrapComponents: {
    ExamplesSelect: (field, system) => (props) => labelled(system, "Example", field, props),
    Input: (field, { React }) => (props) =>
      React.createElement(field, props.type === "file" ? { "aria-label": "A file", ...props } : props),
    RequestBodyEditor: (field, system) => (props) => labelled(system, "Request body", field, props),
  },
});

const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

window.SwaggerUIBundle({
  url: place.dataset.document,
  domNode: place,
  plugins: [fileField, labels],
  deepLinking: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  // Else it would ask a validator elsewhere for its opinion.
  validatorUrl: null,
});
