//! The demonstration.
#![cfg_attr(target_os = "none", no_std, no_main)]

use kernel::{Boot, exit::ExitCode, memory::frames, println};

kernel::entry_point!(run);

fn run(_boot: Boot) -> ExitCode {
    println!("{:?}", frames::usage());
    ExitCode::Success
}
