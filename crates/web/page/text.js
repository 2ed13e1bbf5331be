// Texts and elements. All that comes from outside passes through `printable` into a text node.

/** The characters of `mayfly_core::printable`, which a reader does not see. */
const HIDDEN = new RegExp(
  '[\\p{Cc}\\u{ad}\\u{34f}\\u{61c}\\u{115f}\\u{1160}\\u{17b4}\\u{17b5}\\u{180b}-\\u{180f}' +
  '\\u{200b}-\\u{200f}\\u{2028}-\\u{202e}\\u{2060}-\\u{206f}\\u{3164}\\u{feff}\\u{ffa0}' +
  '\\u{fff0}-\\u{fffb}\\u{1bca0}-\\u{1bca3}\\u{1d173}-\\u{1d17a}\\u{e0000}-\\u{e0fff}]', 'gu');
const SHORT = { '\n': '\\n', '\r': '\\r', '\t': '\\t' };
/** A longer text is cut: a description may have 700 kB. */
export const LONGEST = 2000;
/** Names in a sentence, and sentences of one kind, before "and 7 more". */
export const MOST_NAMES = 3;
const MOST_SENTENCES = 10;

export const $ = (selector, root = document) => root.querySelector(selector);
export const number = new Intl.NumberFormat('en');

const escaped = (letter) => SHORT[letter] ?? `\\u{${letter.codePointAt(0).toString(16)}}`;

/** The beginning of a text, and a note of how much more there is. */
function cut(text) {
  const more = text.length - LONGEST;
  if (more <= 0) return [text, ''];
  return [text.slice(0, LONGEST), ` ... (${number.format(more)} more characters)`];
}

/** One line without hidden characters, and not endless. */
export function printable(value) {
  const [text, end] = cut(String(value));
  return text.replace(HIDDEN, escaped) + end;
}

/** As it is, but with hidden characters escaped. Line feeds and tabs stay. */
export function printableLines(text) {
  return text.replace(HIDDEN, (letter) => (/[\n\t]/.test(letter) ? letter : escaped(letter)));
}

/** A text node that keeps its lines. */
export function textLines(text) {
  const [shown, end] = cut(text);
  return document.createTextNode(printableLines(shown) + end);
}

/** An element; texts among the children become text nodes. */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, '');
    else if (value !== false && value != null) element.setAttribute(name, printable(value));
  }
  for (const child of children.flat(9)) {
    if (child == null || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(printable(child)));
  }
  return element;
}

/** Puts a text into an element. Only a change is written, since screen readers read it out. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export const counted = (count, one, more) => `${number.format(count)} ${count === 1 ? one : more}`;

export function listed(names) {
  const shown = names.slice(0, MOST_NAMES).join(', ');
  const more = names.length - MOST_NAMES;
  return more > 0 ? `${shown} and ${number.format(more)} more` : shown;
}

/** The first of many, and how many more there are. */
export function firstOf(texts) {
  const more = texts.length - MOST_SENTENCES;
  return more > 0 ? [...texts.slice(0, MOST_SENTENCES), `and ${number.format(more)} more`] : texts;
}

// --- Time ----------------------------------------------------------------------------------------

const UNITS = { d: 86400, h: 3600, m: 60, s: 1 };

/** A span as `mayfly` prints it: no seconds where there are hours. */
export function span(seconds) {
  let left = Math.max(0, Math.round(seconds));
  const parts = [];
  for (const [unit, size] of Object.entries(UNITS)) {
    if (left >= size && parts.length < 2) {
      parts.push(`${Math.floor(left / size)}${unit}`);
      left %= size;
    } else if (parts.length) break;
  }
  return parts.join(' ') || '0s';
}

/** The seconds of a span such as `8h` or `1day 30min`; null for anything else. */
export function seconds(text) {
  const parts = [...String(text).matchAll(/(\d+)\s*([dhms])[a-z]*/g)];
  if (!parts.length) return null;
  return parts.reduce((sum, [, count, unit]) => sum + count * UNITS[unit], 0);
}

export const clock = (date) => date.toLocaleTimeString('en-GB');

const TIMES = {
  in: (left) => (left > 0 ? `in ${span(left)}` : 'now'),
  idle: (left) => (left > 0 ? `in ${span(left)} unless used` : 'now unless used'),
  ago: (left) => (left > -5 ? 'just now' : `${span(-left)} ago`),
};

/** A moment in words, which follow the clock. */
export function moment(text, kind) {
  const time = el('time', { datetime: text, 'data-kind': kind, title: text });
  tick(time);
  return time;
}

function tick(time) {
  const at = Date.parse(time.dateTime);
  const words = TIMES[time.dataset.kind];
  say(time, Number.isNaN(at) ? time.dateTime : words((at - Date.now()) / 1000));
}

setInterval(() => document.querySelectorAll('time').forEach(tick), 5000);

