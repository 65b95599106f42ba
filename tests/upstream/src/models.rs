//! The models it serves, the pool that each counts against, and how each counts tokens.

/// How a model counts the tokens of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counting {
    /// By a table of three sizes, and 512-pixel tiles for what is given.
    Table,
    /// By a formula of any size, with these factors for low, medium, high, xhigh and max.
    Formula([u64; 5]),
}

/// One model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Model {
    pub(crate) name: &'static str,
    pub(crate) counting: Counting,
    pub(crate) shutdown_date: Option<&'static str>,
}

const TWO: Counting = Counting::Formula([16, 48, 96, 96, 96]);
const NEWER: Counting = Counting::Formula([16, 32, 48, 72, 96]);

/// The pool that all of them count against.
pub(crate) const POOL: &str = "gpt-image";

const MODELS: &[Model] = &[
    Model { name: "gpt-image-1", counting: Counting::Table, shutdown_date: Some("2026-10-23") },
    Model { name: "gpt-image-1-mini", counting: Counting::Table, shutdown_date: Some("2026-12-01") },
    Model { name: "gpt-image-1.5", counting: Counting::Table, shutdown_date: Some("2026-12-01") },
    Model { name: "chatgpt-image-latest", counting: Counting::Table, shutdown_date: Some("2026-12-01") },
    Model { name: "gpt-image-2", counting: TWO, shutdown_date: None },
    Model { name: "gpt-image-2-codex", counting: TWO, shutdown_date: None },
    Model { name: "gpt-image-2.5-flare", counting: NEWER, shutdown_date: None },
    Model { name: "gpt-image-2.5-sunburst", counting: NEWER, shutdown_date: None },
    Model { name: "gpt-image-2.6-flare", counting: NEWER, shutdown_date: None },
    Model { name: "gpt-image-2.6-sunburst", counting: NEWER, shutdown_date: None },
];

/// All of them.
pub(crate) fn models() -> impl Iterator<Item = &'static Model> {
    MODELS.iter()
}

/// By its name or that of a dated snapshot.
pub(crate) fn model(name: &str) -> Option<&'static Model> {
    MODELS
        .iter()
        .find(|model| name.strip_prefix(model.name).is_some_and(|rest| rest.is_empty() || rest.starts_with("-20")))
}
