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
    /// Random programs, from this seed on.
    Soak {
        /// The seed of the first.
        seed: u64,
    },
    /// The tests.
    Test {
        /// Only those whose names contain this.
        filter: Option<String>,
        /// Only those after this one.
        after: Option<String>,
    },
}

/// What chooses where the heap lies in tests: each run has it at the same place.
const TEST_PLACEMENT: &str = "1";

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
            Self::Soak { seed } => {
                line("mode", "soak");
                line("seed", &seed.to_string());
                line("randomisation-seed", TEST_PLACEMENT);
            }
            Self::Test { filter, after } => {
                line("mode", "test");
                line("randomisation-seed", TEST_PLACEMENT);
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
        .map_err(Failure::because("cannot write the RAM disk"))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn the_archive_has_the_configuration_first_and_then_the_traces() {
        let config = Config::Demonstration {
            trace: "cc".into(),
            job: true,
            monitor: false,
            ticks_per_instruction: Some(32),
        };
        let bytes = archive(
            &config,
            &[("cc".into(), vec![7; 1000]), ("git".into(), vec![])],
        )
        .unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let files: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                (entry.path().unwrap().into_owned(), content)
            })
            .collect();
        assert_eq!(
            files[0],
            (
                "config".into(),
                b"mode=demo\ntrace=cc\njobs=yes\nmonitor=no\nticks-per-instruction=32\n".to_vec()
            )
        );
        assert_eq!(files[1], ("traces/cc.trace".into(), vec![7; 1000]));
        assert_eq!(files[2], ("traces/git.trace".into(), vec![]));
        assert_eq!(files.len(), 3);
    }

    #[test]
    fn a_soak_says_where_it_begins() {
        let config = Config::Soak { seed: 9 };
        assert_eq!(config.text(), "mode=soak\nseed=9\nrandomisation-seed=1\n");
    }

    #[test]
    fn a_test_run_says_only_what_was_asked_for() {
        let text = |filter: Option<&str>, after: Option<&str>| {
            Config::Test {
                filter: filter.map(str::to_owned),
                after: after.map(str::to_owned),
            }
            .text()
        };
        assert_eq!(text(None, None), "mode=test\nrandomisation-seed=1\n");
        assert_eq!(
            text(Some("grow::"), Some("grow::a")),
            "mode=test\nrandomisation-seed=1\nfilter=grow::\nafter=grow::a\n"
        );
    }
}
