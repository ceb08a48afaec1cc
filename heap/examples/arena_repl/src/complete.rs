//! Completion by the tab key: commands, names of arenas, bases of allocations, options.

use heap::vmem::SegmentKind;
use rustyline::completion::Completer;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};

use crate::command::{COMMANDS, OPTIONS};
use crate::session::Session;

/// The candidates of completion, a snapshot for one line.
pub(crate) struct Completion {
    /// The names of the arenas, each with the bases of its allocations.
    arenas: Vec<(String, Vec<String>)>,
}

impl Completion {
    pub(crate) fn new(session: &Session) -> Self {
        let arenas = session.names().map(|name| {
            let segments = session
                .arena(name)
                .into_iter()
                .flat_map(|arena| arena.segments());
            let allocated = segments.filter(|segment| segment.kind == SegmentKind::Allocated);
            let bases = allocated.map(|segment| format!("{:#x}", segment.base));
            (name.to_owned(), bases.collect())
        });
        Self {
            arenas: arenas.collect(),
        }
    }

    /// Returns the words that may follow these.
    fn candidates(&self, words: &[&str]) -> Vec<&str> {
        let names = || self.arenas.iter().map(|(name, _)| name.as_str()).collect();
        match words {
            [] => COMMANDS.iter().map(|command| command.0).collect(),
            ["create", _, _] => names(),
            ["create", ..] | ["help"] | ["quit"] => Vec::new(),
            [_] => names(),
            ["free" | "resize" | "where", name] => {
                let arena = self.arenas.iter().find(|arena| arena.0 == *name);
                let bases = arena.into_iter().flat_map(|arena| &arena.1);
                bases.map(String::as_str).collect()
            }
            ["alloc", _, _, ..] => OPTIONS.to_vec(),
            _ => Vec::new(),
        }
    }
}

impl Completer for Completion {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = &line[..position];
        let start = typed
            .rfind(char::is_whitespace)
            .map_or(0, |space| space + 1);
        let words: Vec<&str> = typed[..start].split_whitespace().collect();
        let candidates = self.candidates(&words).into_iter();
        let fitting = candidates.filter(|candidate| candidate.starts_with(&typed[start..]));
        // An option like `align=` is followed by its value, everything else by a space.
        let completed = fitting.map(|candidate| match candidate.ends_with('=') {
            true => candidate.to_owned(),
            false => format!("{candidate} "),
        });
        Ok((start, completed.collect()))
    }
}

impl Helper for Completion {}

impl Hinter for Completion {
    type Hint = String;
}

impl Highlighter for Completion {}

impl Validator for Completion {}

#[cfg(test)]
mod tests {
    use rustyline::history::DefaultHistory;

    use super::*;
    use crate::command::Command;

    #[test]
    fn commands_names_bases_and_options_are_completed() {
        let mut session = Session::default();
        for line in ["create heap 4k", "span heap 64k 64k", "alloc heap 4k"] {
            session
                .execute(Command::parse(line).unwrap().unwrap())
                .unwrap();
        }
        let completion = Completion::new(&session);
        let history = DefaultHistory::new();
        let complete = |line: &str| {
            let context = Context::new(&history);
            completion.complete(line, line.len(), &context).unwrap()
        };
        assert_eq!(complete("al"), (0, vec!["alloc ".into()]));
        assert_eq!(complete("alloc h"), (6, vec!["heap ".into()]));
        assert_eq!(complete("free heap 0x1"), (10, vec!["0x10000 ".into()]));
        assert_eq!(complete("alloc heap 4k al"), (14, vec!["align=".into()]));
        assert_eq!(complete("create child 4k "), (16, vec!["heap ".into()]));
        assert_eq!(complete("create h"), (7, vec![]));
    }
}
