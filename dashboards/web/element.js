// The only place that makes DOM nodes. Data reaches the page as text nodes and attributes, never as markup: there is no
// innerHTML anywhere, and a Trusted Types policy in the page's CSP makes the browser refuse it.

const SVG = 'http://www.w3.org/2000/svg';

/** An HTML element. `props`: attributes, plus `on: {event: handler}`, `vars: {'--name': value}` and `data: {key: value}`. */
export function h(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** An SVG element, same conventions. */
export function s(tag, props, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

/** Replaces what an element holds, keeping the keyboard focus on the element of the same `data-key`; nodes already there stay. */
export function replaceKeepingFocus(parent, ...children) {
  const next = flat(children);
  if (next.length === parent.childNodes.length && next.every((node, index) => node === parent.childNodes[index])) return;
  const active = parent.contains(document.activeElement) ? document.activeElement.dataset?.key : undefined;
  parent.replaceChildren(...next);
  if (active === undefined) return;
  const again = [...parent.querySelectorAll('[data-key]')].find((element) => element.dataset.key === active);
  again?.focus({ preventScroll: true });
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) set(element, name, value);
  element.append(...flat(children));
  return element;
}

function set(element, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (name === 'on') {
    for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
  } else if (name === 'vars') {
    for (const [property, of] of Object.entries(value)) element.style.setProperty(property, String(of));
  } else if (name === 'data') {
    Object.assign(element.dataset, value);
  } else if (/^on/i.test(name) || name === 'style' || name === 'srcdoc') {
    throw new Error(`attribute ${name} is not allowed`);
  } else if (name === 'href' && !/^[?/#]/.test(String(value))) {
    throw new Error('links stay inside the dashboard');
  } else {
    element.setAttribute(name, value === true ? '' : String(value));
  }
}

function flat(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}
