//! The commands: their help, and the parser of a line.

use heap::vmem::{AllocPolicy, Layout};

/// The commands: name, arguments and description.
pub(crate) const COMMANDS: [(&str, &str, &str); 12] = [
    (
        "create",
        "NAME QUANTUM [SOURCE]",
        "creates an arena, which borrows from SOURCE",
    ),
    ("span", "NAME BASE LENGTH", "adds a span"),
    (
        "alloc",
        "NAME SIZE [instant|best|next] [align=N] [phase=N] [nocross=N] [min=N] [max=N]",
        "allocates",
    ),
    ("at", "NAME BASE SIZE", "allocates exactly at BASE"),
    ("free", "NAME BASE [SIZE]", "frees, and verifies the size"),
    ("resize", "NAME BASE SIZE", "grows or shrinks in place"),
    (
        "where",
        "NAME ADDRESS",
        "prints the segment that contains an address",
    ),
    ("trim", "NAME", "releases free borrowed spans"),
    ("check", "NAME", "checks all structures"),
    ("show", "[NAME]", "draws the segments"),
    ("help", "", "prints this list"),
    ("quit", "", "ends the program"),
];

/// The options after the size in `alloc`.
pub(crate) const OPTIONS: [&str; 8] = [
    "instant", "best", "next", "align=", "phase=", "nocross=", "min=", "max=",
];

/// A parsed command. The first field is the name of the arena.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Create(String, usize, Option<String>),
    Span(String, usize, usize),
    Alloc(String, Layout, AllocPolicy),
    At(String, usize, usize),
    Free(String, usize, Option<usize>),
    Resize(String, usize, usize),
    Where(String, usize),
    Trim(String),
    Check(String),
    Show(Option<String>),
    Help,
    Quit,
}

impl Command {
    /// Parses a line. An empty line is no command, and a comment begins with `#`.
    ///
    /// # Errors
    /// A message for the user.
    pub(crate) fn parse(line: &str) -> Result<Option<Self>, String> {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        let command = match words[..] {
            [] => return Ok(None),
            ["create", name, quantum] => Self::Create(name.into(), number(quantum)?, None),
            ["create", name, quantum, source] => {
                Self::Create(name.into(), number(quantum)?, Some(source.into()))
            }
            ["span", name, base, len] => Self::Span(name.into(), number(base)?, number(len)?),
            ["alloc", name, size, ref options @ ..] => {
                let (layout, policy) = layout(number(size)?, options)?;
                Self::Alloc(name.into(), layout, policy)
            }
            ["at", name, base, size] => Self::At(name.into(), number(base)?, number(size)?),
            ["free", name, base] => Self::Free(name.into(), number(base)?, None),
            ["free", name, base, size] => {
                Self::Free(name.into(), number(base)?, Some(number(size)?))
            }
            ["resize", name, base, size] => Self::Resize(name.into(), number(base)?, number(size)?),
            ["where", name, address] => Self::Where(name.into(), number(address)?),
            ["trim", name] => Self::Trim(name.into()),
            ["check", name] => Self::Check(name.into()),
            ["show"] => Self::Show(None),
            ["show", name] => Self::Show(Some(name.into())),
            ["help"] => Self::Help,
            ["quit"] => Self::Quit,
            [name, ..] => {
                return Err(match COMMANDS.iter().find(|command| command.0 == name) {
                    Some((name, arguments, _)) => format!("usage: {name} {arguments}"),
                    None => format!("no command {name:?}; try help"),
                });
            }
        };
        Ok(Some(command))
    }
}

/// Parses a number, decimal or with `0x`, with an optional unit `k`, `m`, `g` or `t`.
fn number(word: &str) -> Result<usize, String> {
    let (digits, unit) = match word.char_indices().next_back() {
        Some((end, suffix)) => match "kmgt".find(suffix.to_ascii_lowercase()) {
            Some(power) => (&word[..end], 1 << (10 * (power + 1))),
            None => (word, 1_usize),
        },
        None => (word, 1),
    };
    match digits.strip_prefix("0x") {
        Some(digits) => usize::from_str_radix(digits, 16),
        None => digits.parse(),
    }
    .ok()
    .and_then(|number| number.checked_mul(unit))
    .ok_or_else(|| format!("not a number: {word:?}"))
}

fn layout(size: usize, options: &[&str]) -> Result<(Layout, AllocPolicy), String> {
    let mut policy = AllocPolicy::InstantFit;
    let mut align = 1;
    let mut constraints = Vec::new();
    for &option in options {
        match option.split_once('=') {
            None => policy = self::policy(option)?,
            Some(("align", value)) => align = number(value)?,
            Some((name, value)) => constraints.push((name, number(value)?)),
        }
    }
    let mut layout =
        Layout::from_size_align(size, align).ok_or("a size of zero, or a bad alignment")?;
    for (name, value) in constraints {
        layout = match name {
            "phase" => layout.with_phase(value),
            "nocross" => layout
                .with_nocross(value)
                .ok_or("nocross is a power of two, and not below the size")?,
            "min" => layout.with_min(value),
            "max" => layout.with_max(value),
            _ => return Err(format!("no constraint {name:?}")),
        };
    }
    Ok((layout, policy))
}

fn policy(word: &str) -> Result<AllocPolicy, String> {
    match word {
        "instant" => Ok(AllocPolicy::InstantFit),
        "best" => Ok(AllocPolicy::BestFit),
        "next" => Ok(AllocPolicy::NextFit),
        _ => Err(format!("no policy {word:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_bases_and_units() {
        assert_eq!(number("10"), Ok(10));
        assert_eq!(number("0x10"), Ok(16));
        assert_eq!(number("4k"), Ok(4096));
        assert_eq!(number("0x2M"), Ok(2 << 20));
        for bad in ["", "k", "0x", "-1", "é", "99999999999t"] {
            assert!(number(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_line_that_is_no_command_gets_a_helpful_error() {
        assert_eq!(Command::parse("  # nothing"), Ok(None));
        let usage = Command::parse("span here").unwrap_err();
        assert_eq!(usage, "usage: span NAME BASE LENGTH");
        assert!(Command::parse("spam").unwrap_err().contains("help"));
        assert!(Command::parse("alloc a 1 worst").is_err());
        assert!(Command::parse("alloc a 16 nocross=8").is_err());
    }

    #[test]
    fn an_allocation_has_a_policy_and_constraints_in_any_order() {
        let layout = Layout::from_size_align(16, 64)
            .unwrap()
            .with_phase(8)
            .with_max(0xff);
        assert_eq!(
            Command::parse("alloc a 16 max=0xff best align=64 phase=8"),
            Ok(Some(Command::Alloc(
                "a".into(),
                layout,
                AllocPolicy::BestFit
            )))
        );
    }
}
