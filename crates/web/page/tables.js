// Tables that keep what the reader has focused, selected and scrolled while the state changes.

import { $, counted, el, say } from './text.js';

/** Rows that a table shows before it offers more, and how many more it then shows. */
const FIRST_ROWS = 50;
const STEP = 200;

/** What draws everything again, for what changes by a click. */
export let redraw = () => {};
export function onRedraw(draw) {
  redraw = draw;
}

/** How many rows each section shows, and the rows that are there, by key. */
const limits = new Map();
const tables = new Map();

/**
 * Shows items as rows of a section's table. A row is built again only when its item has changed, so
 * that focus, scroll position and selection stay. `mark` is what has to differ for that, and `news`
 * says whether the row is to catch the eye.
 */
export function rows(id, items, {
  key, build, mark = JSON.stringify, first = FIRST_ROWS, news = () => false,
}) {
  const section = document.getElementById(id);
  const body = $('tbody', section);
  const focused = document.activeElement;
  if (!limits.has(id)) limits.set(id, first);
  const limit = limits.get(id);
  const known = tables.get(id);
  const now = new Map();
  let refocus = null;
  for (const item of items.slice(0, limit)) {
    const name = key(item);
    const mine = mark(item);
    const old = known?.get(name);
    if (old && old.mark === mine) {
      now.set(name, old);
      continue;
    }
    const built = [build(item)].flat();
    if (old && news(old.item, item)) built[0].classList.add('changed');
    if (old?.rows.some((row) => row.contains(focused)) && focused.dataset.keep) {
      refocus = built[0].querySelector(`[data-keep="${focused.dataset.keep}"]`);
    }
    now.set(name, { item, mark: mine, rows: built });
  }
  for (const [name, old] of known ?? []) {
    if (now.get(name) !== old) old.rows.forEach((row) => row.remove());
  }
  let place = body.firstChild;
  for (const row of [...now.values()].flatMap(({ rows: all }) => all)) {
    if (row === place) place = place.nextSibling;
    else body.insertBefore(row, place);
  }
  tables.set(id, now);
  // A row that has moved has lost the focus.
  if (refocus) refocus.focus({ preventScroll: true });
  else if (focused?.isConnected && focused !== document.activeElement) {
    focused.focus({ preventScroll: true });
  }
  more($('.more', section), id, items.length - limit);
}

function more(place, id, hidden) {
  const label = hidden > 0 ? counted(hidden, 'more', 'more') : '';
  if (place.dataset.label === label) return;
  place.dataset.label = label;
  const hadFocus = place.contains(document.activeElement);
  const button = (count, text) => {
    const element = el('button', { type: 'button' }, text);
    element.addEventListener('click', () => {
      limits.set(id, limits.get(id) + count);
      redraw();
    });
    return element;
  };
  const step = Math.min(hidden, STEP);
  const parts = hidden > 0 ? [button(step, `Show ${step} more`), `${label} in all`] : [];
  place.replaceChildren(...parts);
  if (hidden > 0 && hadFocus) $('button', place).focus();
}

export const state = (tone, ...words) => el('span', { class: `state ${tone}` }, words);
export const dash = () => el('span', { class: 'dim' }, '-');
export const cell = (...children) => el('td', {}, ...children);
export const wide = (...children) => el('td', { class: 'wide' }, ...children);
export const mono = (...children) => el('td', { class: 'mono' }, ...children);
export const brief = (...children) => el('td', { class: 'wide nowrap' }, ...children);
export const figure = (text, extra = '') => el('td', { class: `number ${extra}` }, text);
export const head = (...children) => el('th', { scope: 'row' }, ...children);

/** Shows or hides a section that is not always there, and its link. */
export function present(id, is) {
  document.getElementById(id).hidden = !is;
  $(`nav a[href="#${id}"]`).parentElement.hidden = !is;
}

export const count = (id, text) => say($(`#${id} .count`), text);

