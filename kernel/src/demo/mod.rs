//! The demonstration: a recorded program on the kernel heap, the comparison with other allocators, the monitor.

mod compare;
mod figure;
mod mix;
mod monitor;
mod player;
mod replay;
mod subject;
mod trace;

use kernel::config::Config;
use kernel::println;
use kernel::ramdisk::Ramdisk;

/// Runs what `config` asks for. Returns whether everything went well; what did not was said.
pub fn run(config: &Config<'_>, ramdisk: &Ramdisk<'_>) -> bool {
    let mut well = true;
    if config.jobs {
        match trace::load(ramdisk, config.trace) {
            Ok(trace) => {
                well &= replay::replay(config.trace, &trace);
                well &= compare::compare(config.trace, &trace, config.seed, config.clock);
            }
            Err(error) => {
                println!("{error}");
                return false;
            }
        }
    }
    if config.monitor {
        monitor::run(config, ramdisk);
    }
    well
}
