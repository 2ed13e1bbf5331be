// The list of environments, and each of them in full when it is opened.

import { remembered } from './connection.js';
import { derived, environments, failingInWords, names, phase, rest } from './state.js';
import {
  brief, cell, count, dash, figure, head, mono, redraw, rows, state, wide,
} from './tables.js';
import {
  $, counted, el, firstOf, moment, number, printable, say, seconds, textLines,
} from './text.js';

/** The environments that are opened. */
export const opened = new Set();

export function showEnvironments() {
  const words = $('#search').value.toLowerCase().split(/\s+/).filter(Boolean);
  const onlyBroken = $('#broken').checked;
  const ranks = { bad: [], pending: [], good: [] };
  for (const name of names) {
    const environment = environments.get(name);
    const { tone, text } = derived(environment);
    if (words.every((word) => text.includes(word))) ranks[tone].push(environment);
  }
  const found = [...ranks.bad, ...ranks.pending, ...(onlyBroken ? [] : ranks.good)];
  const all = counted(names.length, 'environment', 'environments');
  const some = `${number.format(found.length)} of ${all}`;
  count('environments', words.length || onlyBroken ? some : all);
  const uses = names.some((name) => lastUse(environments.get(name)));
  $('#environments .used').hidden = !uses;
  const pattern = edgePattern();
  rows('environments', found, {
    key: ({ name }) => name,
    mark: (one) => (opened.has(one.name) ? JSON.stringify([one, pattern, uses, failingOf(one)])
      : `${identity(one)} ${pattern} ${uses}`),
    build: (one) => environmentRows(one, pattern, uses),
    news: (before, now) => derived(before).words !== derived(now).words,
  });
  $('#edge').hidden = Boolean(rest.edge_url) || !names.length;
  const ended = rest.ended ?? [];
  const last = ended.length ? `Ended: ${firstOf(ended).map(printable).join(', ')}` : '';
  say($('#environments .ended'), last);
}

/** A number that tells one object from another. */
const identities = new WeakMap();
let identitiesGiven = 0;
function identity(object) {
  if (!identities.has(object)) identities.set(object, (identitiesGiven += 1));
  return identities.get(object);
}

/** When it was last used, as told or as the end of its idle time lets compute. */
function lastUse({ last_used_at: at, idle, idle_until: until }) {
  if (at) return at;
  const length = idle && seconds(idle);
  return until && length ? new Date(Date.parse(until) - length * 1000).toISOString() : null;
}

export const EDGE_URL = 'mayfly-edge-url';

const edgePattern = () => rest.edge_url ?? remembered(EDGE_URL) ?? '';

/** Where an environment answers; null where nobody has said what follows the prefix. */
function address(pattern, { prefix }) {
  if (!pattern.includes('*')) return null;
  try {
    const url = new URL(pattern.replace('*', prefix));
    return /^https?:$/.test(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

function ends({ protected: is, ends_at: at, idle, idle_until: until }) {
  if (is) return ['protected'];
  const parts = [];
  if (at) parts.push(moment(at, 'in'));
  if (until) parts.push(moment(until, 'idle'));
  else if (idle) parts.push(`after ${idle} without use`);
  return parts.length ? parts.flatMap((part, n) => (n ? [', ', part] : [part])) : [dash()];
}

function used(environment) {
  const at = lastUse(environment);
  return at ? moment(at, 'ago') : dash();
}

function environmentRows(environment, pattern, uses) {
  const { name, parents } = environment;
  const { tone, words } = derived(environment);
  const open = opened.has(name);
  const url = address(pattern, environment);
  const toggle = el('button', {
    type: 'button', class: 'toggle', 'data-keep': 'toggle', 'aria-expanded': String(open),
    'aria-controls': open ? `env-${name}` : null, 'aria-label': `Details of ${name}`,
  });
  const flip = () => {
    if (!opened.delete(name)) opened.add(name);
    const hash = opened.has(name) ? `#env/${encodeURIComponent(name)}` : '#environments';
    history.replaceState(null, '', hash);
    redraw();
  };
  toggle.addEventListener('click', flip);
  const title = url ? el('a', { href: url, rel: 'noreferrer', 'data-keep': 'link' }, name) : name;
  const row = el('tr', {}, el('td', { class: 'tight' }, toggle), head(title),
    cell(state(tone, words)),
    wide(parents[0] ?? dash()), wide(ends(environment)), uses && brief(used(environment)));
  if (!open) return row;
  const columns = uses ? 6 : 5;
  const content = el('td', { colspan: columns, id: `env-${name}` }, details(environment, url));
  return [row, el('tr', { class: 'detail' }, content)];
}

function failingOf({ services }) {
  const is = ({ backend }) => services.some(({ service, version, awaited }) =>
    backend.startsWith(`${service}@`) && [undefined, null, backend.slice(service.length + 1)]
      .includes(awaited ?? version));
  return (rest.failing ?? []).filter(is).map(failingInWords);
}

function accessInWords({ of, unknown, users, from }, name) {
  if (unknown) return `nobody, since ${of} cannot be extended`;
  const list = (what, all) => (all.length ? `${what} ${all.join(', ')}` : null);
  const parts = [list('users', users), list('networks', from)];
  const whose = of === name ? '' : ` (inherited from ${of})`;
  return (parts.filter(Boolean).join('; ') || 'nobody') + whose;
}

/** One environment in full. */
function details(environment, url) {
  const { name, prefix, header, parents, access, description, source, services } = environment;
  const facts = el('dl', {});
  const fact = (term, ...what) => {
    if (what[0] != null) facts.append(el('dt', {}, term), el('dd', {}, ...what));
  };
  fact('Description', description && textLines(description));
  fact('Address', url ? el('a', { href: url, rel: 'noreferrer' }, url) : null);
  fact('Prefix', el('span', { class: 'mono' }, prefix));
  fact('x-mayfly', el('span', { class: 'mono' }, header));
  fact('Extends', parents.length ? parents.join(', which extends ') : null);
  fact('Ends', ...ends(environment));
  fact('Last used', lastUse(environment) ? used(environment) : null);
  fact('Open to', access ? accessInWords(access, name) : null);
  fact('From', source ? `${source.file} of ${source.registrar}` : null);
  const failing = failingOf(environment);
  const reasons = [...environment.reasons, ...failing];
  const launching = Object.entries(environment.launching ?? {});
  return [
    facts,
    reasons.length > 0 && el('ul', {}, reasons.map((reason) => el('li', {}, reason))),
    launching.map(([backend, one]) => launcherSays(backend, one)),
    el('div', { class: 'scroll' }, servicesTable(name, services)),
    services.filter((one) => one.passed_over?.length).map((one) => el('p', { class: 'hint' },
      `No candidates for ${one.service} ${one.selector}: ${one.passed_over.join('; ')}`)),
    explainButton(environment, url),
  ];
}

function launcherSays(name, backend) {
  const [tone, words] = phase(backend);
  const failures = counted(backend.failures, 'failure', 'failures');
  const times = backend.failures ? `, ${failures} in a row` : '';
  return [
    el('p', {}, state(tone, `container-launcher: ${name} ${words}${times}`,
      backend.next_try ? [', next try ', moment(backend.next_try, 'in')] : [])),
    output(name, backend),
  ];
}

export function output(name, { output: lines = [] }) {
  if (!lines.length) return null;
  const label = `Last output of ${name}`;
  const pre = el('pre', { class: 'output', tabindex: 0, role: 'group', 'aria-label': label });
  pre.textContent = lines.map(printable).join('\n');
  return pre;
}

function servicesTable(name, services) {
  if (!services.length) return el('p', {}, 'This environment has no services.');
  const heads = ['Service', 'Version', 'Asked for', 'From', 'Routes', 'Live', 'Draining', 'State'];
  const narrow = { 'Asked for': 'wide', Routes: 'wide', Live: 'number', Draining: 'number wide' };
  const row = (one) => {
    const tone = !one.missing ? 'good' : one.awaited ? 'pending' : 'bad';
    const words = one.missing ?? (one.outside ? 'outside' : 'ok');
    return el('tr', {}, head(one.service), mono(one.version ?? dash()),
      el('td', { class: 'mono wide' }, one.outside ? 'address' : one.selector),
      cell(one.inherited_from ?? 'own'),
      el('td', { class: 'mono wide' }, one.routes.join(' ') || dash()),
      figure(one.outside ? dash() : one.live), figure(one.outside ? dash() : one.draining, 'wide'),
      cell(state(tone, words)));
  };
  const column = (text) => el('th', { scope: 'col', class: narrow[text] }, text);
  return el('table', { 'aria-label': `Services of ${name}` },
    el('thead', {}, el('tr', {}, heads.map(column))),
    el('tbody', {}, services.map(row)));
}

function explainButton({ prefix }, url) {
  const button = el('button', { type: 'button' }, 'Explain a request');
  button.addEventListener('click', () => {
    $('#target').value = url ?? `http://${prefix}.example.com/`;
    $('#target').focus();
    $('#explain form').requestSubmit();
  });
  return button;
}

