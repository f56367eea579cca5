//! The live dashboard: a screen of the run, drawn by a separate thread, and keys.

mod draw;
mod view;

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::{interrupt, output};
pub use view::View;

/// Time between two drawings.
const FRAME: Duration = Duration::from_millis(150);

/// The dashboard while it is on the screen. When it is dropped, the terminal is as it was, and what was printed
/// meanwhile follows.
#[derive(Debug)]
pub struct Dashboard {
    shared: Shared,
    thread: Option<JoinHandle<()>>,
}

/// The training loop's handle of the dashboard. Copies mean the same dashboard.
#[derive(Debug, Clone)]
pub struct Shared {
    view: Arc<Mutex<View>>,
    over: Arc<AtomicBool>,
}

impl Shared {
    /// Changes what is shown.
    pub fn update(&self, change: impl FnOnce(&mut View)) {
        change(&mut self.view());
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells whether there is a terminal to draw on.
pub fn possible() -> bool {
    std::io::stdout().is_terminal() && std::io::stdin().is_terminal()
}

impl Dashboard {
    /// Takes the screen over.
    ///
    /// # Errors
    /// When the terminal refuses.
    pub fn open(view: View) -> Result<Self> {
        let terminal = ratatui::try_init().context("the terminal cannot show the dashboard: take --ui plain")?;
        output::hold();
        let shared = Shared { view: Arc::new(Mutex::new(view)), over: Arc::default() };
        let drawn = shared.clone();
        let thread = std::thread::spawn(move || show(&drawn, terminal));
        Ok(Self { shared, thread: Some(thread) })
    }

    /// A handle that changes what is shown.
    pub fn shared(&self) -> Shared {
        self.shared.clone()
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing to show any more, and the run goes on.
            let _ = thread.join();
        }
        ratatui::restore();
        output::release();
    }
}

/// Draws and listens until it is over.
fn show(shared: &Shared, mut terminal: DefaultTerminal) {
    while !shared.over.load(Ordering::SeqCst) {
        let mut view = shared.view().clone();
        output::held_notes().into_iter().for_each(|note| view.say(note));
        // A terminal that cannot be drawn on is no reason to stop a run.
        let _ = terminal.draw(|frame| draw::draw(frame, &view));
        while event::poll(FRAME).unwrap_or(false) {
            if let Ok(Event::Key(key)) = event::read() {
                if let Some(message) = pressed(key) {
                    shared.update(|view| view.say(message));
                }
                break;
            }
        }
    }
}

/// Obeys a key, and says so.
fn pressed(key: KeyEvent) -> Option<&'static str> {
    if key.kind != KeyEventKind::Press {
        return None;
    }
    // In this mode Ctrl-C is a key like any other.
    let control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        _ if control_c => {
            interrupt::request();
            Some("stopping after this step")
        }
        KeyCode::Char('q') => {
            interrupt::request();
            Some("stopping after this step")
        }
        KeyCode::Char('e') => {
            interrupt::request_after_epoch();
            Some("stopping after this epoch")
        }
        KeyCode::Char('s') => {
            interrupt::request_save();
            Some("saving after this step")
        }
        _ => None,
    }
}
