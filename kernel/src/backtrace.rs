//! Backtraces: the return addresses on the stack, which frame pointers lead to.
//!
//! ```text
//! rbp ──> saved rbp of the caller ──> saved rbp of its caller ──> … 0
//!         return address              return address
//! ```
//!
//! The target keeps frame pointers in all functions (`frame-pointer` in `x86_64-talc.json`): that
//! costs less than 2 % of the heap's instructions. The kernel prints addresses; the host knows the
//! functions and lines.

use core::arch::asm;

#[cfg(target_os = "none")]
use crate::memory::PAGE_SIZE;
use crate::memory::address_kind;
use crate::memory::stacks::stack_of;
use crate::serial::print_frame_unlocked;

/// The most addresses of a backtrace: a full stack has fewer, and damaged links may form a cycle.
const MAX_FRAMES: usize = 1 << 15;

/// The size of what a frame pointer points to: a frame pointer and a return address.
const LINK: usize = 16;

/// The return addresses from a frame pointer on, the innermost first.
#[derive(Debug, Clone)]
pub struct Frames {
    pointer: usize,
    left: usize,
}

impl Frames {
    /// Returns where the function that calls this one will return to, where its caller will, and so
    /// on. Waits for no lock and allocates nothing.
    #[inline(always)]
    pub fn of_caller() -> Self {
        Self {
            pointer: frame_pointer(),
            left: MAX_FRAMES,
        }
    }

    /// Returns the callers of the code that an exception has interrupted when its stack pointer was
    /// `stack_pointer`. The handler of that exception calls this function, directly or not.
    #[cfg(target_os = "none")]
    #[inline(always)]
    pub(crate) fn of_interrupted(stack_pointer: usize) -> Self {
        let mut frames = Self::of_caller();
        frames.skip_below(stack_pointer);
        frames
    }

    /// Skips the frames that are on another stack than `stack_pointer`, or below it.
    #[cfg(target_os = "none")]
    fn skip_below(&mut self, stack_pointer: usize) {
        // The pointer of a stack that has overflowed is in the guard page below.
        let stack = stack_of(stack_pointer).or_else(|| stack_of(stack_pointer + PAGE_SIZE));
        let stack = stack.map_or(0..0, |stack| stack_pointer..stack.end);
        while !stack.contains(&self.pointer) {
            let Some((next, _)) = self.link() else { return };
            self.pointer = next;
        }
    }

    /// Reads the frame pointer and the return address that `pointer` points to. `None` if it points
    /// to no such place on a stack, or enough were read.
    fn link(&mut self) -> Option<(usize, usize)> {
        self.left = self.left.checked_sub(1)?;
        let stack = stack_of(self.pointer)?;
        if !self.pointer.is_multiple_of(8) || stack.end - self.pointer < LINK {
            return None;
        }
        let link = core::ptr::with_exposed_provenance::<[usize; 2]>(self.pointer);
        // SAFETY: the address is aligned, and sixteen bytes of a stack follow, which is mapped. No
        // other CPU writes there.
        let [next, address] = unsafe { link.read_volatile() };
        Some((next, address))
    }
}

impl Iterator for Frames {
    type Item = usize;

    /// Returns the next return address. Ends at the first that is not in the kernel's image.
    fn next(&mut self) -> Option<usize> {
        let (next, address) = self.link()?;
        self.pointer = next;
        address_kind::image().contains(&address).then_some(address)
    }
}

/// Prints the instruction that failed, if it is known, and the callers of its function. The host
/// turns the addresses into functions. A recursion has one line and its depth. Takes no lock.
pub fn print(instruction: Option<usize>, callers: Frames) {
    // A return address may be that of the next function.
    let callers = callers.map(|address| address - 1);
    let mut addresses = instruction.into_iter().chain(callers).peekable();
    while let Some(address) = addresses.next() {
        let mut times = 1_usize;
        while addresses.next_if_eq(&address).is_some() {
            times += 1;
        }
        print_frame_unlocked(address as u64, times);
    }
}

/// Returns the frame pointer of the function that this is inlined into.
#[inline(always)]
fn frame_pointer() -> usize {
    let pointer;
    // SAFETY: the instruction only reads a register.
    unsafe { asm!("mov {}, rbp", out(reg) pointer, options(nomem, nostack, preserves_flags)) };
    pointer
}
