// The document: finding, making and changing its parts. Whatever comes from elsewhere becomes a text node, never markup.

const byId = (id) => document.getElementById(id);

/** An element with attributes (`class`, `role`, …; true is a bare one, null none) and children: nodes, or text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) set(element, name, value);
  element.append(...children);
  return element;
}

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) set(element, name, value);
  element.append(...children);
  return element;
}

function set(element, name, value) {
  if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value === true ? "" : value);
}

/** Change a text only where it has changed: selections stay, and nothing is laid out for nothing. */
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function show(element, visible) {
  if (element.hidden === visible) element.hidden = !visible;
}

/** Have `parent` hold one child for each item, in order; children are kept by key, so that focus and scroll stay. */
function keyed(parent, items, keyOf, create, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let after = null;
  for (const item of items) {
    const key = String(keyOf(item));
    let child = known.get(key);
    if (child) known.delete(key);
    else {
      child = create(item);
      child.dataset.key = key;
    }
    const place = after ? after.nextElementSibling : parent.firstElementChild;
    if (place !== child) parent.insertBefore(child, place);
    update(child, item);
    after = child;
  }
  for (const child of known.values()) child.remove();
}

/** A list of names with figures: pairs of name and text; those whose text is null are left out. */
function figures(list, pairs) {
  keyed(
    list,
    pairs.filter(([, text]) => text !== null && text !== undefined),
    ([name]) => name,
    ([name]) => make("div", {}, make("dt", {}, name), make("dd")),
    (row, [, text]) => say(row.lastElementChild, text),
  );
}
