// Making and changing elements. Text from the network becomes text, and nothing else: there is no other way in here.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** An HTML element; children are elements or text. */
export function html(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** An SVG element. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

/** Changes a text where it is another, so that a selection or a reader is not disturbed by what stays. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Makes the children of `box` those of `items`, in order: `make(item)` makes one, `update(element, item)` fills it. An item
 * that stays keeps its element, and with it the focus.
 */
export function keep(box, items, key, make, update) {
  const names = new Set(items.map(key));
  const old = new Map();
  for (const child of [...box.children]) {
    if (names.has(child.dataset.key)) old.set(child.dataset.key, child);
    else child.remove();
  }
  let before = box.firstElementChild;
  for (const item of items) {
    const name = key(item);
    let element = old.get(name);
    if (!element) {
      element = make(item);
      element.dataset.key = name;
    }
    if (element === before) before = before.nextElementSibling;
    else box.insertBefore(element, before);
    update(element, item);
  }
}

/** Shapes that say what a colour says. They lie in a square of 12. */
const SHAPES = {
  disc: "M6 1a5 5 0 1 1 0 10a5 5 0 0 1 0-10z",
  ring: "M6 1a5 5 0 1 1 0 10a5 5 0 0 1 0-10zM6 3.2a2.8 2.8 0 1 0 0 5.6a2.8 2.8 0 0 0 0-5.6z",
  triangle: "M6 0.8L11.6 11H0.4z",
  cross: "M2.6 0.8L6 4.2L9.4 0.8L11.2 2.6L7.8 6L11.2 9.4L9.4 11.2L6 7.8L2.6 11.2L0.8 9.4L4.2 6L0.8 2.6z",
  arrow: "M4.5 0.8h3v5h3.4L6 11.4L1.1 5.8h3.4z",
  square: "M1.5 1.5h9v9h-9z",
  dash: "M1 4.6h10v2.8H1z",
};

/** The outline of a shape, for an SVG path. */
export const outline = (shape) => SHAPES[shape];

/** A small picture of a shape, of which readers are told nothing: words stand beside it. */
export function icon(shape, tone) {
  const picture = svg("svg", { class: `icon ${tone}`, viewBox: "0 0 12 12", "aria-hidden": "true" });
  picture.append(svg("path", { d: SHAPES[shape], fill: "currentColor" }));
  return picture;
}

/** Turns it into another. */
export function redraw(picture, shape, tone) {
  if (picture.dataset.is === shape + tone) return;
  picture.dataset.is = shape + tone;
  picture.setAttribute("class", `icon ${tone}`);
  picture.firstElementChild.setAttribute("d", SHAPES[shape]);
}
