//! What the host asks for: lines of `key=value` in the file `config` of the RAM disk.
//!
//! A line that starts with `#` is a comment. A key that is not known, is there twice or has a value
//! that is not understood is refused: a misspelt filter must not run all tests.

use core::fmt;
use core::num::NonZero;

/// What the kernel is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Demonstrate.
    #[default]
    Demo,
    /// Run tests.
    Test,
    /// Run random programs until the host says that it is enough.
    Soak,
}

/// The configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config<'a> {
    /// `mode=demo|test|soak`: what to do; `demo` if absent.
    pub mode: Mode,
    /// `filter=SUBSTRING`: only tests whose names contain it; all if absent.
    pub filter: Option<&'a str>,
    /// `after=TESTNAME`: only tests that come after this one.
    pub after: Option<&'a str>,
    /// `trace=NAME`: the trace that the demonstration replays; `cc` if absent.
    pub trace: &'a str,
    /// `monitor=yes|no`: whether someone is there to type; `no` if absent.
    pub monitor: bool,
    /// `jobs=yes|no`: `no` skips the main job; `yes` if absent.
    pub jobs: bool,
    /// `ticks-per-instruction=N`: how far the time-stamp counter moves with each instruction, when
    /// the virtual machine counts them; if absent, it counts time.
    pub ticks_per_instruction: Option<NonZero<u64>>,
    /// `seed=N`: what random programs start from; 0 if absent.
    pub seed: u64,
    /// `randomisation-seed=N`: what chooses where the heap lies; if absent, nobody can tell beforehand.
    pub randomisation_seed: Option<u64>,
}

impl Default for Config<'_> {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            filter: None,
            after: None,
            trace: "cc",
            monitor: false,
            jobs: true,
            ticks_per_instruction: None,
            seed: 0,
            randomisation_seed: None,
        }
    }
}

/// A line that is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigError<'a> {
    /// The line has no `=`.
    NoValue {
        /// The line.
        line: &'a str,
    },
    /// There is no such key.
    UnknownKey {
        /// The key.
        key: &'a str,
    },
    /// The key was there before.
    Repeated {
        /// The key.
        key: &'a str,
    },
    /// The key cannot have that value.
    BadValue {
        /// The key.
        key: &'a str,
        /// The value.
        value: &'a str,
    },
}

impl fmt::Display for ConfigError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoValue { line } => write!(f, "`{line}` is not of the form key=value"),
            Self::UnknownKey { key } => write!(f, "there is no key `{key}`"),
            Self::Repeated { key } => write!(f, "`{key}` is given twice"),
            Self::BadValue { key, value } => write!(f, "`{key}` cannot be `{value}`"),
        }
    }
}

impl core::error::Error for ConfigError<'_> {}

const KEYS: [&str; 9] = [
    "mode",
    "filter",
    "after",
    "trace",
    "monitor",
    "jobs",
    "ticks-per-instruction",
    "seed",
    "randomisation-seed",
];

impl<'a> Config<'a> {
    /// Reads a configuration.
    ///
    /// # Errors
    /// At the first line that is not understood.
    pub fn parse(text: &'a str) -> Result<Self, ConfigError<'a>> {
        let mut config = Self::default();
        let mut seen = [false; KEYS.len()];
        let lines = text.lines().map(str::trim);
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (key, value) = line.split_once('=').ok_or(ConfigError::NoValue { line })?;
            let index = KEYS
                .iter()
                .position(|&known| known == key)
                .ok_or(ConfigError::UnknownKey { key })?;
            if core::mem::replace(&mut seen[index], true) {
                return Err(ConfigError::Repeated { key });
            }
            config
                .set(key, value)
                .ok_or(ConfigError::BadValue { key, value })?;
        }
        Ok(config)
    }

    /// Sets a key that is known; `None` if it cannot have that value.
    fn set(&mut self, key: &str, value: &'a str) -> Option<()> {
        if value.is_empty() {
            return None;
        }
        match key {
            "mode" => {
                self.mode = match value {
                    "demo" => Mode::Demo,
                    "test" => Mode::Test,
                    "soak" => Mode::Soak,
                    _ => return None,
                }
            }
            "filter" => self.filter = Some(value),
            "after" => self.after = Some(value),
            "trace" => self.trace = value,
            "monitor" => self.monitor = yes_or_no(value)?,
            "jobs" => self.jobs = yes_or_no(value)?,
            "ticks-per-instruction" => self.ticks_per_instruction = Some(value.parse().ok()?),
            "seed" => self.seed = value.parse().ok()?,
            "randomisation-seed" => self.randomisation_seed = Some(value.parse().ok()?),
            _ => return None,
        }
        Some(())
    }
}

fn yes_or_no(value: &str) -> Option<bool> {
    match value {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read() {
        let text = "# of the host\nmode=test\nfilter=grow::\nafter=grow::in_place\n\n\
                    trace=git\nmonitor=yes\njobs=no\n\
                    ticks-per-instruction=32\nseed=18446744073709551615\nrandomisation-seed=3\n";
        let expected = Config {
            mode: Mode::Test,
            filter: Some("grow::"),
            after: Some("grow::in_place"),
            trace: "git",
            monitor: true,
            jobs: false,
            ticks_per_instruction: NonZero::new(32),
            seed: u64::MAX,
            randomisation_seed: Some(3),
        };
        assert_eq!(Config::parse(text), Ok(expected));
    }

    #[test]
    fn an_empty_configuration_is_the_default() {
        assert_eq!(Config::parse(""), Ok(Config::default()));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let refused = [
            ("filter", ConfigError::NoValue { line: "filter" }),
            ("fliter=x", ConfigError::UnknownKey { key: "fliter" }),
            ("seed=1\nseed=1", ConfigError::Repeated { key: "seed" }),
            (
                "seed=-1",
                ConfigError::BadValue {
                    key: "seed",
                    value: "-1",
                },
            ),
            (
                "mode=tset",
                ConfigError::BadValue {
                    key: "mode",
                    value: "tset",
                },
            ),
            (
                "ticks-per-instruction=0",
                ConfigError::BadValue {
                    key: "ticks-per-instruction",
                    value: "0",
                },
            ),
            (
                "monitor=true",
                ConfigError::BadValue {
                    key: "monitor",
                    value: "true",
                },
            ),
            (
                "filter=",
                ConfigError::BadValue {
                    key: "filter",
                    value: "",
                },
            ),
        ];
        for (text, error) in refused {
            assert_eq!(Config::parse(text), Err(error), "{text}");
        }
    }
}
