//! Shows on stderr what is being measured: a moving line on a terminal, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, stderr};

pub struct ProgressLine {
    /// `None` if stderr is not a terminal.
    bar: Option<ProgressBar>,
    step: u64,
    steps: u64,
    title: &'static str,
}

impl ProgressLine {
    /// Shows progress over `steps` steps.
    pub fn new(steps: usize) -> Self {
        let bar = stderr().is_terminal().then(|| bar(steps as u64));
        Self { bar, step: 0, steps: steps as u64, title: "" }
    }

    /// Begins the next step.
    pub fn begin(&mut self, title: &'static str) {
        self.step += 1;
        self.title = title;
        if let Some(bar) = &self.bar {
            bar.set_prefix(title);
            bar.set_position(self.step - 1);
            bar.set_message("");
        }
    }

    /// Shows a few words about what the step is doing.
    pub fn say(&mut self, words: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(words.to_owned()),
            None => eprintln!("{}/{} {}: {words}", self.step, self.steps, self.title),
        }
    }

    /// Removes the moving line from the terminal while another program writes there.
    pub fn pause<R>(&self, during: impl FnOnce() -> R) -> R {
        match &self.bar {
            Some(bar) => bar.suspend(during),
            None => during(),
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(steps: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:20} {pos}/{len} {elapsed} {prefix}: {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    // No ticker: its thread would take CPU time from the measurement.
    bar.set_position(0);
    bar.reset_elapsed();
    bar
}
