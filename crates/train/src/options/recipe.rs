//! Recipes: options of training under one name, or in a TOML file. A recipe's lines are read as the options of the same
//! names, so they mean the same and are checked alike.

use std::fs;
use std::path::Path;

use anyhow::Result;
use clap::{Arg, ArgAction, CommandFactory, Parser};

use crate::failure::usage;
use crate::options::args::{Cli, TrainArgs};

/// The recipes that need no file.
const NAMED: [(&str, &str); 3] = [
    ("paper", include_str!("../../recipes/paper.toml")),
    ("authors", include_str!("../../recipes/authors.toml")),
    ("strong", include_str!("../../recipes/strong.toml")),
];

/// Headings of the options that a recipe may set, and the one of them that it may not.
const HEADINGS: [&str; 2] = ["Method", "Optimiser"];
const ITSELF: &str = "recipe";

/// The options of a recipe, by its name or its file.
///
/// # Errors
/// When there is no such recipe, or a line of it is no option or has a wrong value.
pub fn load(recipe: &str) -> Result<TrainArgs> {
    let text = match NAMED.iter().find(|(name, _)| *name == recipe) {
        Some((_, text)) => (*text).to_owned(),
        None => fs::read_to_string(Path::new(recipe)).map_err(|error| {
            usage(format!("--recipe takes paper, authors, strong or a TOML file, and {recipe} cannot be read: {error}"))
        })?,
    };
    parse(&text).map_err(|problem| usage(format!("the recipe {recipe}: {problem}")))
}

fn parse(text: &str) -> Result<TrainArgs, String> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| error.message().to_owned())?;
    let command = Cli::command();
    let headed = |option: &str| {
        let heading = command.get_arguments().find(|arg| arg.get_id() == option).and_then(Arg::get_help_heading);
        option != ITSELF && heading.is_some_and(|heading| HEADINGS.contains(&heading))
    };
    let known = |key: &&String| !headed(key);
    if let Some(key) = table.keys().find(known) {
        let known = command.get_arguments().map(|arg| arg.get_id().as_str()).filter(|option| headed(option));
        let meant = nets::closest(key, known).map_or_else(String::new, |name| format!("did you mean {name}? "));
        let what = "is no option of the method or the optimiser";
        return Err(format!("{key} {what}: {meant}(see train --help; write _ for -)"));
    }
    read(&arguments(&table, headed)?)
}

/// The lines of a table as options of training on the command line, of those that `may_be_set`.
///
/// # Errors
/// When a line is no such option, or a switch is neither true nor false, in one sentence.
pub fn arguments(table: &toml::Table, may_be_set: impl Fn(&str) -> bool) -> Result<Vec<String>, String> {
    let command = Cli::command();
    let mut line = Vec::with_capacity(table.len());
    for (key, value) in table {
        let option = command.get_arguments().find(|arg| arg.get_id() == key && may_be_set(key));
        let Some(option) = option.filter(|option| option.get_long().is_some()) else {
            let known = command.get_arguments().map(|arg| arg.get_id().as_str()).filter(|option| may_be_set(option));
            let meant = nets::closest(key, known).map_or_else(String::new, |name| format!("did you mean {name}? "));
            return Err(format!("{key} is no option here: {meant}(see train --help; write _ for -)"));
        };
        let long = format!("--{}", key.replace('_', "-"));
        match (option.get_action(), value) {
            (ArgAction::SetTrue, toml::Value::Boolean(true)) => line.push(long),
            (ArgAction::SetTrue, toml::Value::Boolean(false)) => {}
            (ArgAction::SetTrue, _) => return Err(format!("{key} is true or false")),
            (_, toml::Value::String(text)) => line.push(format!("{long}={text}")),
            (_, toml::Value::Array(values)) => {
                let values: Vec<String> = values.iter().map(ToString::to_string).collect();
                line.push(format!("{long}={}", values.join(",")));
            }
            (_, value) => line.push(format!("{long}={value}")),
        }
    }
    Ok(line)
}

/// Options of training as the command line has them.
///
/// # Errors
/// When a value is wrong, in one sentence.
pub fn read(arguments: &[String]) -> Result<TrainArgs, String> {
    let first = |error: clap::Error| {
        let text = error.to_string();
        let sentence = text.lines().next().unwrap_or_default();
        sentence.strip_prefix("error: ").unwrap_or(sentence).to_owned()
    };
    let line = std::iter::once("train").chain(arguments.iter().map(String::as_str));
    Cli::try_parse_from(line).map(|cli| cli.train).map_err(first)
}

#[cfg(test)]
mod tests {
    use super::{NAMED, load, parse};

    #[test]
    fn named_recipes_set_what_they_are_about() {
        for (name, _) in NAMED {
            let recipe = load(name).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(recipe.lr.is_some() && recipe.weight_decay.is_some() && recipe.schedule.is_some(), "{name}");
        }
        assert_eq!(load("authors").expect("known").kl_ramp, Some(80));
    }

    #[test]
    fn what_a_recipe_must_not_say_is_refused_in_one_line() {
        for (text, part) in [
            ("lr = -1", "--lr"),
            ("nesterov = 3", "--nesterov"),
            ("no_gate = 1", "no_gate"),
            ("learning_rate = 0.1", "learning_rate is no option"),
            ("recipe = \"paper\"", "recipe is no option"),
            ("seed = 1", "seed is no option"),
            ("wieght_decay = 1", "did you mean weight_decay?"),
            ("lr = ", "quoted"),
        ] {
            let problem = parse(text).expect_err(text);
            assert!(problem.contains(part) && !problem.contains('\n'), "{text}: {problem}");
        }
        let recipe =
            parse("no_gate = true\nno_distill = false\nmethod = \"one\"\nlr = 0.05\nepochs = 3").expect("options");
        assert!(recipe.no_gate && !recipe.no_distill && recipe.epochs == Some(3));
    }
}
