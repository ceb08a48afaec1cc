//! The demonstration: a recorded program on the kernel heap, the comparison with other allocators,
//! how they scale over CPUs, and the monitor.

mod compare;
mod contender;
mod format;
mod monitor;
mod pages;
mod region;
mod replay;
mod replayer;
mod scaling;
mod trace;
mod workload;

use kernel::config::Config;
use kernel::exit::ExitCode;
use kernel::println;
use kernel::ramdisk::Ramdisk;

/// Runs the parts of the demonstration that `config` selects.
pub(crate) fn run(config: &Config<'_>, ramdisk: &Ramdisk<'_>) -> ExitCode {
    let name = config.trace;
    let mut code = ExitCode::Success;
    if config.jobs {
        let trace = match trace::load(ramdisk, name) {
            Ok(trace) => trace,
            Err(error) => {
                println!("refused: {error}");
                return ExitCode::Refused;
            }
        };
        let replayed = replay::replay(name, &trace, config.color);
        let compared = compare::compare(name, &trace, config);
        // Where instructions are counted, CPUs take turns.
        let can_scale = kernel::cpus::count() > 1 && config.ticks_per_instruction.is_none();
        let scaled = !can_scale || scaling::compare(config.seed);
        if !(replayed && compared && scaled) {
            code = ExitCode::Failed;
        }
    }
    if config.monitor {
        monitor::run(name, config, ramdisk);
    }
    code
}
