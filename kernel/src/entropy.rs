//! Seeds for randomness: from the CPU's generator, or else from the clocks, which an attacker may
//! guess.

use core::fmt;

use x86_64::instructions::port::Port;
use x86_64::instructions::random::RdRand;

use crate::time_stamp;

/// A seed for randomness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed {
    /// The number.
    pub value: u64,
    /// The origin of the number.
    pub origin: Origin,
}

/// The origin of a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The host has chosen it.
    Host,
    /// The CPU's random number generator.
    Cpu,
    /// The clocks when the kernel started: predictable for an attacker who knows this time well.
    Clocks,
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = match self.origin {
            Origin::Host => "the host",
            Origin::Cpu => "the CPU's generator",
            Origin::Clocks => "the clocks",
        };
        write!(f, "{:#x} from {origin}", self.value)
    }
}

impl Seed {
    /// Returns a seed from the best origin that the machine has.
    pub fn gather() -> Self {
        // The generator may be exhausted for a moment: up to 10 attempts.
        let random = RdRand::new().and_then(|cpu| (0..10).find_map(|_| cpu.get_u64()));
        match random {
            Some(value) => Self {
                value,
                origin: Origin::Cpu,
            },
            None => Self {
                value: clocks(),
                origin: Origin::Clocks,
            },
        }
    }

    /// Returns the seed that the host has chosen.
    pub fn of_host(value: u64) -> Self {
        Self {
            value,
            origin: Origin::Host,
        }
    }

    /// Returns a number of which each bit depends on every bit of the seed.
    pub fn mixed(&self) -> u64 {
        mix(self.value)
    }
}

/// Mixes the bits of `value`: the first step and the finalizer of the generator SplitMix64 (Steele,
/// Lea and Flood, 2014).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Returns the time stamp counter mixed with the real-time clock.
fn clocks() -> u64 {
    let ticks = time_stamp();
    // Seconds, minutes, hours, day, month and year, in any encoding.
    [0_u8, 2, 4, 7, 8, 9]
        .iter()
        .fold(ticks, |value, &register| {
            // SAFETY: the port selects a register of the real-time clock, which no other code uses.
            unsafe { Port::new(0x70).write(register) };
            // SAFETY: reading these registers of the real-time clock has no side effect.
            let part: u8 = unsafe { Port::new(0x71).read() };
            mix(value) ^ u64::from(part)
        })
}
