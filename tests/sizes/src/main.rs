//! A small kernel with parts that are padded to sizes from the environment of the build. The layout
//! of segments depends on the sizes, and every kernel must boot (`./run-qemu.sh test --forks`).
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::vec;
use core::arch::asm;
use core::hint::black_box;
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use kernel::exit::ExitCode;

kernel::entry_point!(kernel_main);

/// Parses a variable of the build's environment. A missing variable is 0.
const fn number(variable: Option<&str>) -> usize {
    let Some(text) = variable else { return 0 };
    match usize::from_str_radix(text, 10) {
        Ok(number) => number,
        Err(_) => panic!("not a number"),
    }
}

/// The number of bytes of code.
const CODE: usize = number(option_env!("KERNEL_CODE"));
/// The number of bytes of constants.
const CONSTANTS: usize = number(option_env!("KERNEL_CONSTANTS"));
/// The number of entries in a table of functions, of 8 bytes each. The loader writes the table when
/// it relocates the image. After that the table is read-only.
const FUNCTIONS: usize = number(option_env!("KERNEL_FUNCTIONS"));
/// The number of bytes of initialised variables.
const VARIABLES: usize = number(option_env!("KERNEL_VARIABLES"));

static CONSTANT: [u8; CONSTANTS] = [7; CONSTANTS];
static FUNCTION: [fn(); FUNCTIONS] = [call_me; FUNCTIONS];
static VARIABLE: [AtomicU8; VARIABLES] = [const { AtomicU8::new(1) }; VARIABLES];

static CALLS: AtomicUsize = AtomicUsize::new(0);

fn call_me() {
    CALLS.fetch_add(1, Ordering::Relaxed);
}

fn kernel_main(_boot: kernel::Boot) -> ExitCode {
    // SAFETY: the code jumps over the padding, and changes no register or memory.
    unsafe { asm!("jmp 2f", ".skip {bytes}, 0xcc", "2:", bytes = const CODE) };
    // Each part is used, so that the linker retains it, and has its initial value.
    let constants = black_box(&CONSTANT).iter().filter(|&&byte| byte == 7);
    let variables = black_box(&VARIABLE)
        .iter()
        .filter(|byte| byte.fetch_add(1, Ordering::Relaxed) == 1);
    let functions = black_box(&FUNCTION);
    functions.iter().for_each(|function| function());
    let heap = black_box(vec![1_u8; 100_000]);
    let right = constants.count() == CONSTANTS
        && variables.count() == VARIABLES
        && CALLS.load(Ordering::Relaxed) == FUNCTIONS
        && heap.iter().all(|&byte| byte == 1);
    kernel::println!("{CODE}+{CONSTANTS}+{FUNCTIONS}*8+{VARIABLES}");
    if right {
        ExitCode::Success
    } else {
        ExitCode::Failed
    }
}
