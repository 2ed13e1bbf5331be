//! Time and randomness of the whole process, taken from the simulation. The daemons read the clock
//! of the system, and every hash map of std has random keys: both come from libc, and this module
//! has its own `clock_gettime` and `getrandom`, which the linker prefers. So no daemon needs to be
//! changed for the simulation. Outside of it they ask the kernel, as libc does.

// The two functions have the names and the arguments of C.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::future::Future;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mayfly_daemon::tasks;
use rustix::rand::GetRandomFlags;
use rustix::time::ClockId;
use tokio::time::Instant;

use crate::random::Random;

/// Whether the process is in the simulation.
static ACTIVE: AtomicBool = AtomicBool::new(false);
/// When virtual time began.
static BEGUN: OnceLock<Instant> = OnceLock::new();
/// The state of the randomness.
static RANDOM: AtomicU64 = AtomicU64::new(0);

/// What the clocks say when virtual time begins: some time after the start of the machine, and the
/// morning of 2030-01-01.
const MONOTONIC: u64 = 1_000_000_000_000_000;
const REALTIME: u64 = 1_893_488_400_000_000_000;

const CLOCK_REALTIME: i32 = 0;
const CLOCK_MONOTONIC: i32 = 1;

thread_local! {
    /// Whether this thread is asking tokio for the time, which may ask for it in turn.
    static ASKING: Cell<bool> = const { Cell::new(false) };
    /// How often the thread of the simulation has asked. Each time it is a nanosecond later, as with
    /// a real clock: no two moments are the same.
    static ASKED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Runs work in virtual time, with everything random following from the seed. Once in a process:
/// tokio counts the runtimes of a process, and its choices follow from that, too.
///
/// # Panics
/// When the work panics, or there is no memory for a thread.
pub fn simulate<T, W>(seed: u64, work: impl FnOnce() -> W + Send + 'static) -> T
where
    T: Send + 'static,
    W: Future<Output = T>,
{
    assert!(!ACTIVE.swap(true, Ordering::SeqCst), "one simulation a process");
    RANDOM.store(Random::new(seed, 0).number(), Ordering::SeqCst);
    tasks::block_inline();
    // The keys of hash maps belong to a thread, so it has to be a new one.
    let thread = std::thread::Builder::new().stack_size(16 << 20).spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build();
        let runtime = runtime.expect("a runtime");
        ASKED.set(Some(0));
        runtime.block_on(async {
            BEGUN.get_or_init(Instant::now);
            work().await
        })
    });
    match thread.expect("a thread").join() {
        Ok(outcome) => outcome,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Virtual time since its beginning, in nanoseconds.
fn elapsed() -> u64 {
    let Some(begun) = BEGUN.get() else { return 0 };
    if ASKING.replace(true) {
        return 0;
    }
    let elapsed = begun.elapsed().as_nanos();
    ASKING.set(false);
    let asked = ASKED.get().map(|asked| asked + 1);
    ASKED.set(asked);
    u64::try_from(elapsed).unwrap_or(u64::MAX) + asked.unwrap_or_default()
}

/// `struct timespec` of a machine with 64 bits.
#[repr(C)]
pub struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

/// As libc's.
///
/// # Safety
/// As libc's: `time` points to room for a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: i32, time: *mut Timespec) -> i32 {
    let base = match clock {
        CLOCK_REALTIME => REALTIME,
        CLOCK_MONOTONIC => MONOTONIC,
        _ => 0,
    };
    let now = if base != 0 && ACTIVE.load(Ordering::Relaxed) {
        let nanoseconds = base + elapsed();
        Timespec {
            seconds: i64::try_from(nanoseconds / 1_000_000_000).unwrap_or_default(),
            nanoseconds: i64::try_from(nanoseconds % 1_000_000_000).unwrap_or_default(),
        }
    } else {
        let clock = match clock {
            CLOCK_REALTIME => ClockId::Realtime,
            CLOCK_MONOTONIC => ClockId::Monotonic,
            2 => ClockId::ProcessCPUTime,
            3 => ClockId::ThreadCPUTime,
            4 => ClockId::MonotonicRaw,
            5 => ClockId::RealtimeCoarse,
            6 => ClockId::MonotonicCoarse,
            _ => ClockId::Boottime,
        };
        let now = rustix::time::clock_gettime(clock);
        Timespec {
            seconds: now.tv_sec,
            nanoseconds: now.tv_nsec,
        }
    };
    // SAFETY: the caller gives room for a time.
    unsafe { time.write(now) };
    0
}

/// As libc's.
///
/// # Safety
/// As libc's: `buffer` points to room for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, flags: u32) -> isize {
    // SAFETY: the caller gives room for so many bytes.
    let bytes = unsafe {
        buffer.write_bytes(0, length);
        std::slice::from_raw_parts_mut(buffer, length)
    };
    if !ACTIVE.load(Ordering::Relaxed) {
        let flags = GetRandomFlags::from_bits_retain(flags);
        return match rustix::rand::getrandom(bytes, flags) {
            Ok(filled) => isize::try_from(filled).unwrap_or(-1),
            Err(_) => -1,
        };
    }
    for part in bytes.chunks_mut(8) {
        let state = RANDOM.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst);
        let number = Random::new(state, 1).number().to_le_bytes();
        part.copy_from_slice(&number[..part.len()]);
    }
    isize::try_from(length).unwrap_or(-1)
}
