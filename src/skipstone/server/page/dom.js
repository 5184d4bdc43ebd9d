// Elements are made here alone. Texts become text nodes, never markup: whatever a model or a user
// writes is inert.

/**
 * An element.
 * @param {string} tag
 * @param {Object<string, string|boolean|number>} attributes `false` leaves one out, `true` is empty.
 * @param {...(Node|string)} children
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** The element of an id that the page has from the beginning. */
export const byId = (id) => document.getElementById(id);
