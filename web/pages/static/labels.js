/** How a prediction's label reads. Owns nothing else. */

/** Without the underscores of ImageNet's labels. */
export const label = ({ label: name }) => name.replaceAll("_", " ");
