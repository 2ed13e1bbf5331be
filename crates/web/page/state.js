// The state that mayfly-web sends, and what follows from it. Nothing here touches the page.

import { counted, firstOf, listed, LONGEST, MOST_NAMES, number } from './text.js';

/** All of the state but the environments; null before the first event. */
export let rest = null;
/** The environments by name, and their names in order. */
export let environments = new Map();
export let names = [];

/** Takes in an event: the whole state, or what has changed. Returns what is worth to be told. */
export function take(event) {
  const told = [];
  if (event.daemons) {
    const { environments: all, ...others } = event;
    const before = environments;
    environments = new Map(all.map((one) => [one.name, same(before.get(one.name), one)]));
    if (rest) {
      for (const one of environments.values()) announce(told, before.get(one.name), one);
      for (const name of before.keys()) if (!environments.has(name)) told.push(`${name} has ended`);
    }
    rest = others;
  } else {
    for (const one of event.environments ?? []) {
      announce(told, environments.get(one.name), one);
      environments.set(one.name, one);
    }
    for (const name of event.gone ?? []) {
      if (environments.delete(name)) told.push(`${name} has ended`);
    }
    // It has all of the other fields: one that is missing in it has no value now.
    if (event.rest) rest = event.rest;
    rest.revision = event.revision ?? rest.revision;
  }
  if (names.length !== environments.size || !names.every((name) => environments.has(name))) {
    names = [...environments.keys()].sort((a, b) => (a < b ? -1 : 1));
  }
  return told;
}

/** The environment as it was where nothing has changed: its row stays. */
const same = (before, now) =>
  (before && JSON.stringify(before) === JSON.stringify(now) ? before : now);

function announce(told, before, now) {
  const words = { good: 'is complete', pending: 'waits', bad: 'is incomplete' };
  const [was, is] = [before && words[derived(before).tone], words[derived(now).tone]];
  if (was !== is) told.push(`${before ? '' : 'new environment '}${now.name} ${is}`);
}

/** How an environment is: good, pending or bad, and in words. The tones are those of `mayfly`. */
function condition({ complete, routed, reasons, services }) {
  const missing = services.filter((service) => service.missing);
  // It answers with the version that it had.
  const waits = missing.length > 0 && missing.every((service) => service.awaited);
  if (complete && !reasons.length) return ['good', 'complete'];
  const more = reasons.length - MOST_NAMES;
  const shown = reasons.slice(0, MOST_NAMES);
  if (more > 0) shown.push(`and ${number.format(more)} more`);
  const words = shown.join('; ');
  if (complete) return ['pending', `complete, but ${words}`];
  return [routed && waits ? 'pending' : 'bad', words || 'incomplete'];
}

/** What is worth no second computation: tone, words, and the text in which a search looks. */
const derivations = new WeakMap();

export function derived(environment) {
  let found = derivations.get(environment);
  if (!found) {
    const [tone, words] = condition(environment);
    const { name, prefix, header, description, source, services, parents } = environment;
    const backend = ({ service, version, selector }) => `${service}@${version ?? selector}`;
    const texts = [name, prefix, header, source?.file, description?.slice(0, LONGEST), ...parents];
    const text = [...texts, ...services.map(backend)].join('\n').toLowerCase();
    found = { tone, words, text };
    derivations.set(environment, found);
  }
  return found;
}

/** The worst that a daemon reports; null when it is well. The words are those of `mayfly`. */
export function trouble(daemon) {
  const nameless = daemon.host_names_without_address?.length ?? 0;
  const warnings = daemon.certificate_warnings ?? 0;
  if (daemon.error) return 'reports an error';
  if (!daemon.ready) return 'is not ready';
  if (daemon.guard) return daemon.leading == null ? 'keeps what etcd has lost' : 'retires nothing';
  if (nameless) return `has no address of ${counted(nameless, 'host name', 'host names')}`;
  if (warnings) return `has ${counted(warnings, 'warning', 'warnings')} of certificates`;
  if (daemon.lag > 0) return `is ${counted(daemon.lag, 'revision', 'revisions')} behind`;
  return null;
}

/** What is set aside that no line of an environment tells, each entry once, and who says so. */
export function setAside() {
  const entries = new Map();
  const add = ({ key, reason }, by) => {
    const at = key.lastIndexOf('/environments/');
    if (at >= 0 && environments.has(key.slice(at + '/environments/'.length))) return;
    const id = `${key}\n${reason}`;
    if (!entries.has(id)) entries.set(id, { key, reason, by });
  };
  for (const entry of rest.set_aside ?? []) add(entry, 'etcd');
  for (const { daemon, node, set_aside: aside } of rest.daemons) {
    for (const entry of aside ?? []) {
      // What these set aside is in etcd, and so told already.
      const isKey = entry.key.startsWith('/');
      const told = daemon === 'haproxy-updater' || (daemon === 'dns-updater' && isKey);
      if (!told) add(entry, `${daemon} of ${node}`);
    }
  }
  return [...entries.values()];
}

/** All that needs attention: a sentence, and the section that says more. */
export function attention(aside) {
  const found = [];
  const add = (section, ...texts) => found.push(...texts.map((text) => [text, section]));
  if (rest.etcd) add(null, `etcd takes nothing new: ${rest.etcd}`);
  const named = (is, one, more) => {
    const all = names.filter((name) => is(environments.get(name)));
    if (all.length) add('environments', `${counted(all.length, one, more)} (${listed(all)})`);
  };
  named(({ complete }) => !complete, 'environment is incomplete', 'environments are incomplete');
  named(({ complete, reasons }) => complete && reasons.length,
    'environment is complete in part', 'environments are complete in part');
  const { daemons } = rest;
  if (!daemons.length) add('daemons', 'no daemon reports');
  else if (!daemons.some(({ daemon }) => daemon === 'haproxy-updater')) {
    add('daemons', 'no router reports');
  }
  const launchers = daemons.filter(({ leading }) => leading != null);
  if (launchers.length && !launchers.some(({ leading }) => leading)) {
    add('daemons', 'no container-launcher leads');
  }
  const troubled = daemons.filter(trouble);
  add('daemons', ...firstOf(troubled.map((one) => `${one.daemon} of ${one.node} ${trouble(one)}`)));
  add(null, ...firstOf(rest.unreachable ?? []));
  const stuck = backends().filter(([, backend]) => isStuck(backend));
  if (stuck.length) {
    const words = counted(stuck.length, 'backend does not start', 'backends do not start');
    add('launching', `${words} (${listed(stuck.map(([name]) => name))})`);
  }
  add(null, ...firstOf((rest.failing ?? []).map(failingInWords)));
  const lost = (one) => {
    const calls = counted(one.calls, 'call', 'calls');
    return `${caller(one)} dropped the header in ${calls} in the last 10 min`;
  };
  add('lost', ...firstOf((rest.lost_headers ?? []).map(lost)));
  if (aside.length) {
    add('aside', counted(aside.length, 'entry is set aside', 'entries are set aside'));
  }
  return found;
}

export function failingInWords({ backend, address, container, reason, node }) {
  const where = container ? `${address} (${container})` : address;
  const by = `container-registrar of ${node}`;
  return `instance of ${backend} at ${where} is not registered: ${reason} (${by})`;
}

/** Who lost a header: a version, or one of those that share an address. */
export function caller({ service, version, address, one_of: some = [], more = 0 }) {
  if (service) return `${service}@${version}`;
  const others = more ? ` and ${number.format(more)} more` : '';
  return `one of ${some.join(', ')}${others} at ${address}`;
}

/** What the launcher looks after, the failed first. */
export function backends() {
  const rank = (backend) => (isStuck(backend) ? 0 : backend.state === 'running' ? 2 : 1);
  return Object.entries(rest.launching?.backends ?? {}).sort(([, a], [, b]) => rank(a) - rank(b));
}

const isStuck = ({ state }) => state === 'failed' || state === 'no-definition';

const PHASES = {
  pulling: ({ percent }) => (percent == null ? 'pulling' : `pulling ${percent} %`),
  foreign: () => "not started: another program's container runs, but is not registered yet",
  failed: ({ reason }) => `failed: ${reason}`,
  unused: ({ retire_at: at }) => `unused, will be retired at ${at}`,
  'no-definition': () => 'no definition',
};

const PHASE_TONES = {
  running: 'good', failed: 'bad', 'no-definition': 'bad', unused: 'none', retiring: 'none',
};

/** What the launcher says of a backend: the tone, and words. */
export function phase(backend) {
  const { state, failure, failures } = backend;
  const words = PHASES[state]?.(backend) ?? state;
  const last = failures ? 'the last try failed: ' : '';
  const why = failure && state !== 'failed' ? ` (${last}${failure})` : '';
  return [PHASE_TONES[state] ?? 'pending', words + why];
}

