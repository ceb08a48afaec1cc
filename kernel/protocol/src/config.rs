//! The configuration: lines of `key=value`, which the host writes into the RAM disk and the kernel
//! reads.
//!
//! A line that starts with `#` is a comment. An unknown or repeated key is an error, and so is a
//! value that its key does not allow: a misspelt filter must not run all tests.

use core::fmt;
use core::num::NonZero;

/// The trace that the demonstration replays by default. Its program has phases: it loads documents,
/// and lets go of most of each.
pub const DEFAULT_TRACE: &str = "json";

/// What the kernel does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// It runs the demonstration.
    #[default]
    Demo,
    /// It runs tests.
    Test,
    /// It runs random programs until the host sends a byte.
    Soak,
}

impl Mode {
    const ALL: [Self; 3] = [Self::Demo, Self::Test, Self::Soak];

    fn name(self) -> &'static str {
        match self {
            Self::Demo => "demo",
            Self::Test => "test",
            Self::Soak => "soak",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

/// The configuration of one boot.
///
/// [`Display`](fmt::Display) writes the mode, and a line for each value other than the default.
/// [`parse`](Self::parse) reads those lines. A text value has no line break, and no space at its
/// end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config<'a> {
    /// `mode=demo|test|soak`: what the kernel does. The default is `demo`.
    pub mode: Mode,
    /// `filter=SUBSTRING`: runs only tests whose names contain it. The default is all tests.
    pub filter: Option<&'a str>,
    /// `after=TESTNAME`: runs only tests whose names sort after it.
    pub after: Option<&'a str>,
    /// `trace=NAME`: the trace that the demonstration replays. The default is [`DEFAULT_TRACE`].
    pub trace: &'a str,
    /// `monitor=yes|no`: whether a user can type commands. The default is `no`.
    pub monitor: bool,
    /// `jobs=yes|no`: `no` skips the demonstration's replay and comparison. The default is `yes`.
    pub jobs: bool,
    /// `ticks-per-instruction=N`: how far the time-stamp counter moves with each instruction.
    /// Without it, the counter counts time.
    pub ticks_per_instruction: Option<NonZero<u64>>,
    /// `seed=N`: the seed of the first random program. The default is 0.
    pub seed: u64,
    /// `randomisation-seed=N`: the seed for the address of the heap's window. Without it, the
    /// kernel takes a seed from the CPU's generator, or else from the clocks.
    pub randomisation_seed: Option<u64>,
    /// `host=yes|no`: whether the host program watches the serial port. With `no`, as in an image
    /// for a real machine, a person reads it, and the kernel prints no [record](crate::record).
    /// The default is `no`.
    pub host: bool,
    /// `hold=yes|no`: whether the kernel prints `@hold` and waits for a byte before it ends. The
    /// host then takes a picture of the screen. The default is `no`.
    pub hold: bool,
    /// `color=yes|no`: whether the output has the control sequences of terminals for colours. The
    /// default is `no`.
    pub color: bool,
}

impl Default for Config<'_> {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            filter: None,
            after: None,
            trace: DEFAULT_TRACE,
            monitor: false,
            jobs: true,
            ticks_per_instruction: None,
            seed: 0,
            randomisation_seed: None,
            host: false,
            hold: false,
            color: false,
        }
    }
}

/// Why a configuration is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigError<'a> {
    /// The line has no `=`.
    NoValue {
        /// The line.
        line: &'a str,
    },
    /// The key is unknown.
    UnknownKey {
        /// The key.
        key: &'a str,
    },
    /// The key has been on an earlier line.
    Repeated {
        /// The key.
        key: &'a str,
    },
    /// The key does not allow the value.
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

const KEYS: [&str; 12] = [
    "mode",
    "filter",
    "after",
    "trace",
    "monitor",
    "jobs",
    "ticks-per-instruction",
    "seed",
    "randomisation-seed",
    "host",
    "hold",
    "color",
];

impl fmt::Display for Config<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let default = Self::default();
        writeln!(f, "mode={}", self.mode.name())?;
        if let Some(filter) = self.filter {
            writeln!(f, "filter={filter}")?;
        }
        if let Some(after) = self.after {
            writeln!(f, "after={after}")?;
        }
        if self.trace != default.trace {
            writeln!(f, "trace={}", self.trace)?;
        }
        if self.monitor != default.monitor {
            writeln!(f, "monitor={}", yes_or_no(self.monitor))?;
        }
        if self.jobs != default.jobs {
            writeln!(f, "jobs={}", yes_or_no(self.jobs))?;
        }
        if let Some(ticks) = self.ticks_per_instruction {
            writeln!(f, "ticks-per-instruction={ticks}")?;
        }
        if self.seed != default.seed {
            writeln!(f, "seed={}", self.seed)?;
        }
        if let Some(seed) = self.randomisation_seed {
            writeln!(f, "randomisation-seed={seed}")?;
        }
        if self.host != default.host {
            writeln!(f, "host={}", yes_or_no(self.host))?;
        }
        if self.hold != default.hold {
            writeln!(f, "hold={}", yes_or_no(self.hold))?;
        }
        if self.color != default.color {
            writeln!(f, "color={}", yes_or_no(self.color))?;
        }
        Ok(())
    }
}

impl<'a> Config<'a> {
    /// Reads a configuration.
    ///
    /// # Errors
    /// The first line that is not a comment, not empty and no allowed pair of key and value.
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

    /// Sets a key. `None` if the key is unknown or does not allow the value.
    fn set(&mut self, key: &str, value: &'a str) -> Option<()> {
        if value.is_empty() {
            return None;
        }
        match key {
            "mode" => self.mode = Mode::parse(value)?,
            "filter" => self.filter = Some(value),
            "after" => self.after = Some(value),
            "trace" => self.trace = value,
            "monitor" => self.monitor = parse_yes_or_no(value)?,
            "jobs" => self.jobs = parse_yes_or_no(value)?,
            "ticks-per-instruction" => self.ticks_per_instruction = Some(value.parse().ok()?),
            "seed" => self.seed = value.parse().ok()?,
            "randomisation-seed" => self.randomisation_seed = Some(value.parse().ok()?),
            "host" => self.host = parse_yes_or_no(value)?,
            "hold" => self.hold = parse_yes_or_no(value)?,
            "color" => self.color = parse_yes_or_no(value)?,
            _ => return None,
        }
        Some(())
    }
}

fn yes_or_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

fn parse_yes_or_no(value: &str) -> Option<bool> {
    match value {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn every_key_is_written_and_read() {
        let text = "mode=test\nfilter=grow::\nafter=grow::in_place\n\
                    trace=git\nmonitor=yes\njobs=no\n\
                    ticks-per-instruction=32\nseed=18446744073709551615\nrandomisation-seed=3\n\
                    host=yes\nhold=yes\ncolor=yes\n";
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
            host: true,
            hold: true,
            color: true,
        };
        assert_eq!(Config::parse(text), Ok(expected));
        assert_eq!(expected.to_string(), text);
    }

    #[test]
    fn an_empty_configuration_is_the_default() {
        assert_eq!(Config::parse(""), Ok(Config::default()));
        assert_eq!(Config::default().to_string(), "mode=demo\n");
    }

    #[test]
    fn each_mode_is_written_and_read() {
        for mode in Mode::ALL {
            let config = Config {
                mode,
                ..Config::default()
            };
            assert_eq!(Config::parse(&config.to_string()), Ok(config));
        }
    }

    #[test]
    fn comments_and_empty_lines_are_skipped() {
        let config = Config {
            seed: 3,
            ..Config::default()
        };
        assert_eq!(Config::parse("# mode=test\n\n seed=3 \n"), Ok(config));
    }

    #[test]
    fn a_line_that_is_no_allowed_pair_is_refused() {
        let refused = [
            ("filter", ConfigError::NoValue { line: "filter" }),
            ("filters=x", ConfigError::UnknownKey { key: "filters" }),
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
