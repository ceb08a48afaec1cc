//! What the kernel is given beside itself: a ustar archive with a `config` and recorded traces.

use std::{fmt::Write, io};

use crate::failure::Failure;

/// The configuration of one boot, as `key=value` lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Config {
    /// The main job.
    Demonstration {
        /// The trace that it replays.
        trace: String,
        /// Whether it runs at all, or only the monitor does.
        job: bool,
        /// Whether the monitor follows.
        monitor: bool,
        /// How far the time-stamp counter moves with each instruction, if the machine counts them.
        ticks_per_instruction: Option<u64>,
    },
    /// The tests.
    Test {
        /// Only those whose names contain this.
        filter: Option<String>,
        /// Only those after this one.
        after: Option<String>,
    },
}

impl Config {
    /// The text that the kernel reads.
    fn text(&self) -> String {
        let yes_no = |value: &bool| if *value { "yes" } else { "no" };
        let mut text = String::new();
        let mut line =
            |key: &str, value: &str| writeln!(text, "{key}={value}").expect("a string takes all");
        match self {
            Self::Demonstration {
                trace,
                job,
                monitor,
                ticks_per_instruction,
            } => {
                line("mode", "demo");
                line("trace", trace);
                line("jobs", yes_no(job));
                line("monitor", yes_no(monitor));
                if let Some(ticks) = ticks_per_instruction {
                    line("ticks-per-instruction", &ticks.to_string());
                }
            }
            Self::Test { filter, after } => {
                line("mode", "test");
                for (key, value) in [("filter", filter), ("after", after)] {
                    if let Some(value) = value {
                        line(key, value);
                    }
                }
            }
        }
        text
    }
}

/// The archive with `config` and the `traces`, each a name and its bytes.
pub fn archive(config: &Config, traces: &[(String, Vec<u8>)]) -> Result<Vec<u8>, Failure> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut append = |name: &str, bytes: &[u8]| -> io::Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, bytes)
    };
    append("config", config.text().as_bytes())
        .and_then(|()| {
            traces
                .iter()
                .try_for_each(|(name, bytes)| append(&format!("traces/{name}.trace"), bytes))
        })
        .and_then(|()| archive.into_inner())
        .map_err(|error| Failure::Io {
            what: "cannot write the RAM disk".into(),
            error,
        })
}
