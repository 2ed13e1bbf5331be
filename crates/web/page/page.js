// The page of mayfly-web: its sections, and what the reader does. It only reads, and asks no other
// server.

import { ask, follow, forget, hasToken, remember, remembered } from './connection.js';
import { EDGE_URL, opened, output, showEnvironments } from './environments.js';
import { attention, backends, caller, phase, rest, setAside, take, trouble } from './state.js';
import {
  brief, cell, count, dash, figure, head, mono, onRedraw, present, rows, state, wide,
} from './tables.js';
import {
  $, clock, counted, el, firstOf, listed, moment, number, printableLines, say,
} from './text.js';

function showAttention(found) {
  const section = $('#attention');
  section.className = found.length ? '' : 'good';
  const title = found.length
    ? counted(found.length, 'thing needs attention', 'things need attention')
    : 'Nothing needs attention';
  say($('h2', section), title);
  document.title = found.length ? `(${found.length}) Mayfly` : 'Mayfly';
  const list = $('ul', section);
  const text = JSON.stringify(found);
  if (list.dataset.text === text) return;
  list.dataset.text = text;
  const item = ([words, target]) =>
    el('li', {}, target ? el('a', { href: `#${target}` }, words) : words);
  list.replaceChildren(...found.map(item));
}

function showDaemons() {
  const daemons = rest.daemons.map((one) => ({ ...one, trouble: trouble(one) }));
  daemons.sort((a, b) => (b.trouble != null) - (a.trouble != null));
  const well = daemons.filter((one) => !one.trouble).length;
  count('daemons', `${well} of ${daemons.length} are in sync and ready`);
  const leader = daemons.find(({ leading }) => leading);
  rows('daemons', daemons, {
    first: 12,
    key: ({ daemon, node }) => `${daemon} ${node}`,
    mark: (one) => JSON.stringify([one, leader?.node]),
    build(one) {
      const words = [one.error ?? (one.ready ? 'ready' : 'not ready')];
      if (one.leading != null) {
        words.push(one.leading ? 'leading' : `standing by: ${leader?.node ?? 'no launcher'} leads`);
      }
      if (one.trouble && !one.error && one.ready) words.push(one.trouble);
      const nameless = one.host_names_without_address ?? [];
      if (nameless.length) words.push(`no address of ${listed(nameless)}`);
      if (one.set_aside?.length) words.push(`${one.set_aside.length} set aside`);
      const tone = !one.trouble ? 'good' : one.error ? 'bad' : 'pending';
      // It follows nothing in etcd, and so has no revision.
      const follows = one.daemon !== 'container-registrar';
      const lag = one.lag ? counted(one.lag, 'revision', 'revisions') : 'in sync';
      return el('tr', {}, head(one.daemon), cell(one.node), cell(state(tone, words.join(', '))),
        figure(follows ? lag : dash(), 'wide'),
        figure(follows ? one.applied_revision : dash(), 'wide'));
    },
  });
  showHeld(daemons.filter(({ guard }) => guard));
  const notes = new Map();
  for (const { node, notes: all = [] } of daemons) {
    for (const note of all) notes.set(note, [...(notes.get(note) ?? []), node]);
  }
  $('#daemons .notes').replaceChildren(...[...notes].map(([note, nodes]) =>
    el('li', {}, `Note of ${listed(nodes)}: ${note}`)));
}

/** What guards hold back, and the command that confirms it. */
function showHeld(guarding) {
  const place = $('#daemons .held');
  const text = JSON.stringify(guarding);
  if (place.dataset.text === text) return;
  place.dataset.text = text;
  place.replaceChildren(...guarding.map(({ daemon, node, guard, keeps = [], leading }) => {
    const confirmed = leading == null ? 'haproxy-updater' : 'container-launcher';
    const what = leading == null ? 'keeps what etcd has lost' : 'retires nothing';
    const who = `${daemon} of ${node} ${what}: `;
    return el('div', {}, el('p', {}, el('strong', {}, who), guard),
      keeps.length > 0 && el('details', {}, el('summary', {}, counted(keeps.length, 'key', 'keys')),
        el('ul', {}, firstOf(keeps).map((key) => el('li', { class: 'mono' }, key)))),
      el('p', {}, 'If the loss was intended: ', el('code', {}, `mayfly confirm ${confirmed}`)));
  }));
}

function showLaunching() {
  const all = backends();
  const extra = rest.launching?.more ?? 0;
  present('launching', all.length > 0);
  count('launching', counted(all.length + extra, 'backend', 'backends'));
  rows('launching', all, {
    first: 12,
    key: ([name]) => name,
    build([name, backend]) {
      return el('tr', {}, head(name), cell(state(...phase(backend)), output(name, backend)),
        figure(`${backend.live} of ${backend.wanted}`), figure(backend.failures || dash(), 'wide'),
        brief(backend.next_try ? moment(backend.next_try, 'in') : dash()));
    },
  });
}

function showLost() {
  const all = rest.lost_headers ?? [];
  present('lost', all.length > 0);
  rows('lost', all, {
    key: caller,
    build: (one) => el('tr', {}, head(caller(one)), figure(number.format(one.calls))),
  });
}

function showTraffic() {
  const all = [...(rest.traffic ?? [])].sort((a, b) => b.requests - a.requests);
  present('traffic', all.length > 0);
  count('traffic', `of ${counted(all.length, 'version', 'versions')} in the last 10 min`);
  rows('traffic', all, {
    first: 20,
    key: ({ service, version }) => `${service}@${version}`,
    build({ service, version, requests, errors, mean_ms: mean }) {
      const percent = requests ? (errors / requests) * 100 : 0;
      const share = percent < 0.1 ? '<0.1' : percent.toFixed(percent < 10 ? 1 : 0);
      const wrong = [number.format(errors), el('span', { class: 'wide' }, ` (${share} %)`)];
      return el('tr', {}, head(service), mono(version), figure(number.format(requests)),
        figure(errors ? el('span', { class: 'wrong' }, wrong) : '0'),
        figure(mean == null ? dash() : `${mean < 10 ? mean.toFixed(1) : Math.round(mean)} ms`));
    },
  });
}

function showAside(all) {
  present('aside', all.length > 0);
  count('aside', counted(all.length, 'entry', 'entries'));
  rows('aside', all, {
    first: 20,
    key: ({ key, reason }) => `${key}\n${reason}`,
    build({ key, reason, by }) {
      const entry = el('th', { scope: 'row', class: 'mono' }, key);
      return el('tr', {}, entry, cell(reason), wide(by));
    },
  });
}

let drawn = 0;
let planned = false;

/** Draws soon: at once where nothing was drawn lately, and never while the tab is hidden. */
function schedule() {
  if (planned) return;
  planned = true;
  const wait = Math.max(0, 200 - (performance.now() - drawn));
  setTimeout(() => requestAnimationFrame(() => { planned = false; render(); }), drawn ? wait : 0);
}

function render() {
  if (!rest) return;
  const aside = setAside();
  showAttention(attention(aside));
  showDaemons();
  showEnvironments();
  showLaunching();
  showLost();
  showTraffic();
  showAside(aside);
  say($('#revision'), `Revision ${rest.revision} of etcd.`);
  $('#content').hidden = false;
  const isFirst = !drawn;
  drawn = performance.now();
  if (isFirst) {
    performance.mark('drawn');
    openFromHash();
  }
}

// --- What the reader does ------------------------------------------------------------------------

onRedraw(render);

/** Opens the environment that the address names. */
function openFromHash() {
  const [, name] = location.hash.match(/^#env\/([\w.-]+)$/) ?? [];
  if (!name || !rest) return;
  opened.add(name);
  $('#search').value = name;
  render();
  $('#environments').scrollIntoView();
}
addEventListener('hashchange', openFromHash);

for (const control of ['#search', '#broken']) $(control).addEventListener('input', render);
$('#edge-url').value = remembered(EDGE_URL) ?? '';
$('#edge-url').addEventListener('input', ({ target }) => {
  remember(EDGE_URL, target.value.trim());
  render();
});
// Every form only asks by script.
addEventListener('submit', (event) => event.preventDefault());

/** What to ask for what was typed: a URL or host, or an environment and a service. */
function question(form) {
  const words = $('#target').value.trim().split(/\s+/);
  const asked = new URLSearchParams(words.length === 2
    ? { environment: words[0], service: words[1] } : { url: words.join(' ') });
  for (const [name, value] of new FormData(form)) if (value) asked.set(name, value);
  return asked;
}

let asked = 0;
$('#explain form').addEventListener('submit', async ({ target: form }) => {
  const mine = (asked += 1);
  const walk = $('#walk');
  let text;
  let failed = false;
  try {
    const answer = await ask(`v1/explain?${question(form)}`);
    ({ text } = await answer.json());
  } catch (error) {
    text = error.message;
    failed = true;
  }
  // A later question has been asked meanwhile.
  if (mine !== asked) return;
  walk.textContent = printableLines(text);
  walk.className = failed ? 'bad' : '';
  walk.hidden = false;
});

$('#logout').addEventListener('click', () => {
  forget();
  location.reload();
});

// --- The connection ------------------------------------------------------------------------------

/** When the connection was lost; null while it is there. */
let lostSince = null;

/** What tries again at once; null where a try does not help. */
let again = null;

/** Only what is new is written: it is read out, and the button keeps the focus. */
function sayStale(text) {
  const stale = $('#stale');
  say($('span', stale), text);
  $('button', stale).hidden = !again;
}
$('#stale button').addEventListener('click', () => again?.());

/** Says since when what is shown may be old. */
function showConnection(error, retry) {
  lostSince = error ? lostSince ?? new Date() : null;
  const place = $('#connection');
  const etcd = rest?.etcd_unreachable_since;
  place.className = error || etcd ? 'bad' : 'good';
  say(place, error ? 'not connected' : etcd ? 'etcd does not answer' : 'live');
  const stale = $('#stale');
  stale.hidden = !error && !etcd;
  $('#content').classList.toggle('old', Boolean(error || etcd));
  if (error) {
    const since = rest ? `What is shown is from before ${clock(lostSince)}. ` : '';
    again = retry;
    sayStale(`${error.status ? 'mayfly-web answers: ' : ''}${error.message}. ${since}`);
  } else if (etcd) {
    const since = clock(new Date(etcd));
    again = null;
    sayStale(`etcd has not answered mayfly-web since ${since}. What is shown is from before.`);
  }
}

/** Asks for the token, and says why. */
function login(why) {
  const form = $('#login');
  say($('#login-why'), why);
  form.hidden = false;
  $('#content').hidden = true;
  say($('#connection'), 'token needed');
  $('#token').focus();
  return new Promise((resolve) => {
    form.addEventListener('submit', () => {
      form.hidden = true;
      const token = $('#token').value;
      $('#token').value = '';
      resolve(token);
    }, { once: true });
  });
}

follow({
  login,
  failed: showConnection,
  event(event) {
    const told = take(event);
    showConnection();
    $('#logout').hidden = !hasToken();
    // A link sends no token.
    $('#api').hidden = hasToken();
    const log = $('#changes');
    const many = `${number.format(told.length)} environments have changed`;
    log.append(...(told.length > 5 ? [many] : told).map((line) => el('p', {}, line)));
    while (log.childElementCount > 5) log.firstElementChild.remove();
    schedule();
  },
});
