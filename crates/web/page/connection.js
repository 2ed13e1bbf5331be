// The connection to mayfly-web: requests with the token, and the stream of events, again and again.

const TOKEN = 'mayfly-token';
/** Seconds before the first and the longest wait for a new connection. */
const [SHORTEST_WAIT, LONGEST_WAIT] = [1, 15];
/** Seconds without a byte after which a stream counts as dead: mayfly-web sends one each 15 s. */
const SILENCE = 60;

// A browser may refuse its storage; the page works without.
const quietly = (act) => {
  try {
    return act();
  } catch {
    return null;
  }
};
export const remembered = (name) => quietly(() => localStorage.getItem(name));
export const remember = (name, value) => quietly(() => localStorage.setItem(name, value));

let token = quietly(() => sessionStorage.getItem(TOKEN));
export const hasToken = () => Boolean(token);
export function forget() {
  token = null;
  quietly(() => sessionStorage.removeItem(TOKEN));
}
function keep(given) {
  token = given;
  quietly(() => sessionStorage.setItem(TOKEN, given));
}

/** An answer that is a problem (RFC 9457). */
class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/**
 * As `fetch`, with a second try. A browser gives up what is under way when the host gets another
 * network, and it does so for each container that starts.
 */
async function fetchAgain(path, options, isLast = false) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    if (isLast) throw new Error('mayfly-web does not answer');
    await pause(0.2);
    return fetchAgain(path, options, true);
  }
}

/** Asks mayfly-web. Throws what it answers where that is no success. */
export async function ask(path, options = {}) {
  // No header can carry anything else.
  if (token && !/^[\x21-\x7e]+$/.test(token)) throw new Problem(401, 'this is no token');
  const headers = { ...options.headers, ...(token && { authorization: `Bearer ${token}` }) };
  const answer = await fetchAgain(path, { cache: 'no-store', ...options, headers });
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  const status = `HTTP ${answer.status}`;
  throw new Problem(answer.status, problem.detail ?? problem.title ?? status);
}

/** The lines of a stream of bytes. Long lines come in many pieces, which are joined once. */
async function* lines(body, alive) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let pieces = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    alive();
    const parts = value.split('\n');
    for (const part of parts.slice(0, -1)) {
      pieces.push(part);
      yield pieces.join('').replace(/\r$/, '');
      pieces = [];
    }
    pieces.push(parts.at(-1));
  }
}

/** Follows the events until the stream ends. A token needs a header, which no EventSource sends. */
async function stream(take) {
  const abort = new AbortController();
  let watchdog;
  const alive = () => {
    clearTimeout(watchdog);
    watchdog = setTimeout(() => abort.abort(), SILENCE * 1000);
  };
  alive();
  try {
    const answer = await ask('v1/events', {
      headers: { accept: 'text/event-stream' }, signal: abort.signal,
    });
    let data = [];
    for await (const line of lines(answer.body, alive)) {
      if (line.startsWith('data:')) data.push(line.slice(line[5] === ' ' ? 6 : 5));
      else if (line === '' && data.length) {
        take(JSON.parse(data.join('\n')));
        data = [];
      }
    }
    throw new Error('mayfly-web has closed the connection');
  } catch (error) {
    throw error.name === 'AbortError' ? new Error('mayfly-web has become silent') : error;
  } finally {
    clearTimeout(watchdog);
    abort.abort();
  }
}

/** Waits; `retry` ends it, and so does a network that is back. */
function pause(seconds, ready = () => {}) {
  return new Promise((resolve) => {
    const over = new AbortController();
    const now = () => {
      over.abort();
      resolve();
    };
    const timer = setTimeout(now, seconds * 1000);
    over.signal.addEventListener('abort', () => clearTimeout(timer));
    addEventListener('online', now, { signal: over.signal });
    ready(now);
  });
}

/**
 * Follows the state for ever. `event` takes each event, `failed` an error and what tries again at
 * once, and `login` a reason and resolves to a token.
 */
export async function follow({ event, failed, login }) {
  let wait = SHORTEST_WAIT;
  const take = (one) => {
    wait = SHORTEST_WAIT;
    event(one);
  };
  for (;;) {
    try {
      await stream(take);
    } catch (error) {
      if (error.status === 401) {
        const why = token ? 'mayfly-web refuses this token.' : 'mayfly-web asks for a token.';
        keep((await login(why)).trim());
        continue;
      }
      // There can be too many streams; the state itself is still answered.
      if (error.status === 503) {
        await ask('v1/state').then((answer) => answer.json()).then(event).catch(() => {});
      }
      await pause(wait * (0.75 + Math.random() / 2), (now) => failed(error, now));
      wait = Math.min(wait * 2, LONGEST_WAIT);
    }
  }
}
