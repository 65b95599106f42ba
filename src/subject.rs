//! Who asks.
//!
//! Invariant: a subject that passed `validate` has ids of 1 to 256 bytes and attribute names a policy can spell.

use std::collections::BTreeMap;

use crate::error::Error;

/// Who asks: an org, and as far as known its user, the model (or the pool several models share) and named attributes.
///
/// Ids are any text of 1 to 256 bytes. They are checked when the subject is used.
///
/// ```
/// use allotment::Subject;
///
/// let subject = Subject::org("acme").user("alice").model("gpt-image-2").attribute("tier", "free");
/// assert_eq!(subject.value("user"), Some("alice"));
/// assert_eq!(subject.value("tenant"), None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    org: Box<str>,
    user: Option<Box<str>>,
    model: Option<Box<str>>,
    attributes: BTreeMap<Box<str>, Box<str>>,
}

impl Subject {
    /// The longest id, in bytes.
    pub const ID_BYTES_MAX: usize = 256;

    /// The owner of the upstream quota.
    #[must_use]
    pub fn org(org: impl Into<Box<str>>) -> Self {
        Self { org: org.into(), user: None, model: None, attributes: BTreeMap::new() }
    }

    /// The user of the org.
    #[must_use]
    pub fn user(mut self, user: impl Into<Box<str>>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// The model, or the pool that several models share.
    #[must_use]
    pub fn model(mut self, model: impl Into<Box<str>>) -> Self {
        self.model = Some(model.into());
        self
    }

    /// A named attribute, such as `tenant`, `project` or `tier`, for scopes and `when` filters.
    #[must_use]
    pub fn attribute(mut self, name: impl Into<Box<str>>, value: impl Into<Box<str>>) -> Self {
        self.attributes.insert(name.into(), value.into());
        self
    }

    /// The value of `org`, `user`, `model` or a named attribute.
    #[must_use]
    pub fn value(&self, attribute: &str) -> Option<&str> {
        match attribute {
            "org" => Some(&self.org),
            "user" => self.user.as_deref(),
            "model" => self.model.as_deref(),
            name => self.attributes.get(name).map(AsRef::as_ref),
        }
    }

    /// The same subject in another org.
    #[cfg(feature = "openai")]
    pub(crate) fn with_org(self, org: Box<str>) -> Self {
        Self { org, ..self }
    }

    pub(crate) fn validate(&self) -> Result<(), Error> {
        check_id("org", &self.org)?;
        for (name, value) in [("user", &self.user), ("model", &self.model)] {
            value.as_deref().map_or(Ok(()), |value| check_id(name, value))?;
        }
        for (name, value) in &self.attributes {
            check_attribute_name(name)?;
            check_id(name, value)?;
        }
        Ok(())
    }
}

/// An attribute name is 1 to 32 of `a-z`, `0-9`, `_`, and starts with a letter; `org`, `user` and `model` have setters of their own.
pub(crate) fn check_attribute_name(name: &str) -> Result<(), Error> {
    let spelled = name.len() <= 32
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if !spelled || ["org", "user", "model"].contains(&name) {
        return Err(Error::invalid(format!(
            "attribute {name:?}: a name takes 1 to 32 of a-z, 0-9 and _, starts with a letter, and is not org, user or model"
        )));
    }
    Ok(())
}

fn check_id(name: &str, value: &str) -> Result<(), Error> {
    if (1..=Subject::ID_BYTES_MAX).contains(&value.len()) {
        return Ok(());
    }
    let shown: String = value.chars().take(40).collect();
    let more = if shown.len() < value.len() { "..." } else { "" };
    Err(Error::invalid(format!(
        "{name} {shown:?}{more} has {} bytes: an id takes 1 to {}",
        value.len(),
        Subject::ID_BYTES_MAX
    )))
}
