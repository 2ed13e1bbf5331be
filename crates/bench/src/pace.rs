//! Pauses of changing length, the same in every run: what is measured must not fall in step with a timer of the measured.

use std::time::Duration;

#[derive(Debug)]
pub struct Pace(u64);

impl Default for Pace {
    fn default() -> Self {
        Self(0x2545_f491_4f6c_dd1d)
    }
}

impl Pace {
    /// The next number of a fixed sequence (xorshift).
    pub fn next_number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Up to 250 ms: now and then longer than the 200 ms of quiet after which haproxy-updater writes its files.
    pub fn next_pause(&mut self) -> Duration {
        self.next_pause_within(Duration::from_millis(250))
    }

    /// Up to this long.
    pub fn next_pause_within(&mut self, longest: Duration) -> Duration {
        Duration::from_micros(self.next_number() % longest.as_micros() as u64)
    }
}
