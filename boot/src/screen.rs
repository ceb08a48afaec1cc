//! Where a person sees the machine's screen.

use std::{env, net::TcpListener, path::Path, process::Command};

use crate::{failure::Failure, process};

/// The port of VNC's display 0. Others follow.
const VNC_PORT: u16 = 5900;

/// How many displays of VNC are tried.
const VNC_DISPLAYS: u16 = 100;

/// The windows that QEMU can open, in its own words.
const WINDOWS: [&str; 3] = ["gtk", "sdl", "cocoa"];

/// Where the machine's screen is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Screen {
    /// Nowhere.
    Hidden,
    /// In a window of QEMU.
    Window,
    /// Through VNC, on this display of this host alone.
    Vnc(u16),
}

impl Screen {
    /// Returns the place that the QEMU `program` can show a screen at: a window, or else a display
    /// of VNC that is free.
    ///
    /// # Errors
    /// If QEMU cannot be asked, or no display is free.
    pub(crate) fn choose(program: &Path) -> Result<Self, Failure> {
        if has_window_system(|name| env::var_os(name).is_some_and(|value| !value.is_empty())) {
            let mut help = Command::new(program);
            let (_, output) = process::run_quietly(help.args(["-display", "help"]))?;
            if has_window(&output) {
                return Ok(Self::Window);
            }
        }
        free_display().map(Self::Vnc).ok_or_else(|| {
            Failure::Input(format!(
                "--display needs a port of 127.0.0.1 from {VNC_PORT} on, and {VNC_DISPLAYS} are in \
                 use: end a program that uses one"
            ))
        })
    }

    /// Returns the arguments of QEMU.
    pub(crate) fn arguments(self) -> Vec<String> {
        let display = match self {
            Self::Hidden => "none".to_owned(),
            Self::Window => return Vec::new(),
            Self::Vnc(display) => format!("vnc=127.0.0.1:{display}"),
        };
        vec!["-display".into(), display]
    }

    /// Returns the address of the screen, if a person has to know it.
    pub(crate) fn address(self) -> Option<String> {
        match self {
            Self::Hidden | Self::Window => None,
            Self::Vnc(display) => Some(format!("vnc://127.0.0.1:{}", VNC_PORT + display)),
        }
    }
}

/// Returns whether a window system runs, as the environment says.
fn has_window_system(is_set: impl Fn(&str) -> bool) -> bool {
    is_set("DISPLAY") || is_set("WAYLAND_DISPLAY")
}

/// Returns whether QEMU can open windows, from what it prints for `-display help`.
fn has_window(help: &str) -> bool {
    help.lines().any(|line| WINDOWS.contains(&line.trim()))
}

/// Returns the first display of VNC whose port no program uses.
fn free_display() -> Option<u16> {
    (0..VNC_DISPLAYS).find(|display| TcpListener::bind(("127.0.0.1", VNC_PORT + display)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_needs_a_window_system_and_a_qemu_that_has_windows() {
        assert!(has_window_system(|name| name == "DISPLAY"));
        assert!(has_window_system(|name| name == "WAYLAND_DISPLAY"));
        assert!(!has_window_system(|_| false));
        assert!(has_window(
            "Available display backend types:\nnone\ngtk\ncurses\n"
        ));
        let without =
            "qemu: module ui-ui-gtk not found, do you want to install it?\nnone\ncurses\n";
        assert!(!has_window(without));
    }

    #[test]
    fn a_display_of_vnc_is_free_and_only_this_host_sees_it() {
        let display = free_display().unwrap();
        let _listener = TcpListener::bind(("127.0.0.1", VNC_PORT + display)).unwrap();
        assert_ne!(free_display(), Some(display));
        assert_eq!(Screen::Vnc(3).arguments(), ["-display", "vnc=127.0.0.1:3"]);
        assert_eq!(Screen::Vnc(3).address().unwrap(), "vnc://127.0.0.1:5903");
        assert_eq!(Screen::Hidden.arguments(), ["-display", "none"]);
        assert_eq!(
            (Screen::Window.arguments(), Screen::Window.address()),
            (vec![], None)
        );
    }
}
