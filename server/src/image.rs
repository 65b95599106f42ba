//! `allotment image`: draws one request from whatever API the environment names, within the limits of a policy.
//!
//! Invariant: whatever can be wrong with flags, files and keys is found before anything is sent. No key is printed. Lacks previews: of a
//! stream only the progress is shown.

mod failure;
mod files;
mod report;
mod routes;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use allotment::{
    Limiter, Policy, Subject,
    openai::{
        Background, Estimator, ImageClient, ImageError, ImageEvent, ImageInput, ImageRequest, Images, Models,
        OutputFormat, Quality, Size,
    },
};
use anyhow::{Context, Result, bail};
use clap::Args;

use self::{
    failure::Failure,
    files::Files,
    report::{Drawn, Forecast},
    routes::{Named, Way},
};
use crate::{
    flags::{url, whole},
    interrupt::{INTERRUPTED, interruptions},
    output::{note_line, print_line},
    redact::Secrets,
    unlimited,
};

/// The exit status of a call that was denied or refused, or that nobody answered.
const NOTHING_DRAWN: u8 = 1;
/// How many previews of each picture a stream asks for.
const PREVIEWS: u8 = 2;

/// What may be asked of a drawing.
#[derive(Args)]
pub(crate) struct ImageArgs {
    /// What to draw, or what to make of the images of --edit
    prompt: String,

    /// The file to write; of several pictures -1, -2 and so on come before its extension
    #[arg(long, short, value_name = "FILE", required_unless_present = "dry_run")]
    out: Option<PathBuf>,

    /// Overwrites files that are there
    #[arg(long)]
    force: bool,

    /// The model; on Azure, the deployment
    #[arg(long, value_name = "NAME", default_value = "gpt-image-2")]
    model: String,

    /// How many pictures
    #[arg(long, value_name = "N", default_value = "1", value_parser = whole(1..=u64::from(ImageRequest::N_MAX)), allow_negative_numbers = true)]
    n: u64,

    /// Width and height in pixels, such as 1024x1536, or `auto`
    #[arg(long, value_name = "SIZE", default_value = "auto", value_parser = |text: &str| text.parse::<Size>())]
    size: Size,

    /// How much effort: low, medium, high, xhigh, max, or `auto`
    #[arg(long, value_name = "QUALITY", default_value = "auto", value_parser = |text: &str| text.parse::<Quality>())]
    quality: Quality,

    /// The file format: png, jpeg, webp, svg or gif [default: that of the extension of --out]
    #[arg(long, value_name = "FORMAT", value_parser = |text: &str| text.parse::<OutputFormat>())]
    format: Option<OutputFormat>,

    /// What is behind the subject: transparent, opaque, or auto
    #[arg(long, value_name = "WHAT", value_parser = |text: &str| text.parse::<Background>())]
    background: Option<Background>,

    /// An image to start from; may be given more than once
    #[arg(long, value_name = "FILE")]
    edit: Vec<PathBuf>,

    /// An image whose transparent parts are painted anew
    #[arg(long, value_name = "FILE", requires = "edit")]
    mask: Option<PathBuf>,

    /// Where the API is, such as `https://api.openai.com/v1` [default: OPENAI_BASE_URL, else OpenAI itself]
    #[arg(long, value_name = "URL", conflicts_with = "routes")]
    base_url: Option<String>,

    /// A TOML file with the APIs to ask, in their order: see docs/routes.md
    #[arg(long, value_name = "FILE")]
    routes: Option<PathBuf>,

    /// Keeps the ledgers in this Redis, such as redis://localhost [default: the embedded store, which forgets them]
    #[arg(long, value_name = "URL", value_parser = url)]
    redis: Option<String>,

    /// A TOML file with the limits to stay within [default: none]
    #[arg(long, value_name = "FILE", conflicts_with = "preset")]
    policy: Option<PathBuf>,

    /// The known limits of an upstream's tier, such as openai-2026-tier-3
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,

    /// Whose quota it takes
    #[arg(long, value_name = "NAME", default_value = "default")]
    org: String,

    /// For whom, where limits count users apart
    #[arg(long, value_name = "NAME")]
    user: Option<String>,

    /// How long it waits for quota, such as 90s or 5m
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    max_wait: Duration,

    /// Shows the progress: takes the answer as a stream, with two previews of each picture, which cost tokens
    #[arg(long)]
    stream: bool,

    /// Prints one JSON object on stdout and nothing else there
    #[arg(long)]
    json: bool,

    /// Sends nothing: prints what it would cost, and what the limits say to that
    #[arg(long)]
    dry_run: bool,
}

impl ImageArgs {
    /// Draws, or says why not. Keys that it reads are hidden from then on.
    pub(crate) async fn run(self, secrets: &mut Secrets) -> Result<ExitCode> {
        let request = self.request().await?;
        let limiter = self.limiter()?;
        let ended = if self.dry_run {
            self.forecast(&limiter, &request).await
        } else {
            self.draw(&limiter, request, secrets).await
        };
        limiter.shutdown().await;
        ended
    }

    async fn draw(&self, limiter: &Limiter, request: ImageRequest, secrets: &mut Secrets) -> Result<ExitCode> {
        let files = Files::new(self.out.as_deref().context("--out: it is missing")?, self.n);
        files.have_a_folder()?;
        if !self.force {
            files.are_free()?;
        }
        let named =
            Named { base_url: self.base_url.as_deref(), routes: self.routes.as_deref(), model: self.model.as_str() };
        let way = Way::find(&named, &|name| std::env::var(name).ok(), secrets)?;
        let client = ImageClient::builder().limiter(limiter.clone()).model(self.model.as_str()).max_wait(self.max_wait);
        let client = match &way {
            Way::File(file) => client.routes(file),
            Way::One(route) => client.route(route.clone()),
        };
        let client = client.build()?;
        let mut interruptions = interruptions();
        let called = tokio::select! {
            called = self.call(&client, request) => called,
            Some(()) = interruptions.recv() => {
                note_line("interrupted");
                return Ok(ExitCode::from(INTERRUPTED));
            }
        };
        let Images { images, usage, served, .. } = match called {
            Ok(images) => images,
            Err(error) => return self.failed(error, secrets),
        };
        let mut saved = Vec::new();
        for (index, image) in images.iter().enumerate() {
            let path = files.path(index);
            if !self.force {
                files::is_free(&path)?;
            }
            let image = match client.fetch(image).await {
                Ok(image) => image,
                Err(error) => return self.failed(error.into(), secrets),
            };
            image.save(&path).await.with_context(|| format!("--out {}", path.display()))?;
            saved.push(path);
        }
        let drawn = Drawn::new(&saved, usage.as_ref(), &served);
        if self.json {
            print_line(&secrets.redact(&serde_json::to_string(&drawn)?))?;
        } else {
            drawn.files.iter().try_for_each(|file| print_line(file))?;
            note_line(&secrets.redact(&drawn.words()));
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Makes the call. The error is an [`ImageError`], if it has to do with the call.
    async fn call(&self, client: &ImageClient, request: ImageRequest) -> Result<Images> {
        let subject = self.subject();
        if !self.stream {
            return Ok(client.run(&subject, request).await?);
        }
        let mut events = client.stream(&subject, request.partial_images(PREVIEWS));
        while let Some(event) = events.next().await {
            match event? {
                ImageEvent::Partial { index, partial, .. } => {
                    note_line(&format!("picture {} of {}: preview {}", index + 1, self.n, partial + 1));
                }
                ImageEvent::Image { index, .. } => note_line(&format!("picture {} of {}: drawn", index + 1, self.n)),
                ImageEvent::Completed(images) => return Ok(images),
                _ => {}
            }
        }
        bail!("the stream of the answer has no end")
    }

    fn failed(&self, error: anyhow::Error, secrets: &Secrets) -> Result<ExitCode> {
        let Some(failure) = error.downcast_ref::<ImageError>().and_then(|error| Failure::new(error, self.n)) else {
            return Err(error);
        };
        note_line(&secrets.redact(&failure.words()));
        if self.json {
            print_line(&secrets.redact(&serde_json::to_string(&failure)?))?;
        }
        Ok(ExitCode::from(NOTHING_DRAWN))
    }

    /// What the call would cost, and what the limits say.
    async fn forecast(&self, limiter: &Limiter, request: &ImageRequest) -> Result<ExitCode> {
        let models = Models::embedded();
        let estimate = Estimator::new(models.clone()).estimate(&self.model, request)?;
        let subject = self.subject().model(models.get(&self.model).pool());
        let decision = limiter.peek(&subject, estimate.cost()).await?;
        let forecast = Forecast::new(&self.model, &estimate, &decision);
        print_line(&if self.json { serde_json::to_string(&forecast)? } else { forecast.words() })?;
        Ok(if forecast.admitted { ExitCode::SUCCESS } else { ExitCode::from(NOTHING_DRAWN) })
    }

    async fn request(&self) -> Result<ImageRequest> {
        let mut inputs = Vec::new();
        for path in &self.edit {
            inputs.push(ImageInput::file(path).await.context("--edit")?);
        }
        let request = if inputs.is_empty() {
            ImageRequest::generate(&self.prompt)
        } else {
            ImageRequest::edit(&self.prompt, inputs)
        };
        let request = request.model(&self.model).n(u32::try_from(self.n)?).size(self.size).quality(self.quality);
        let request = match &self.mask {
            Some(path) => request.mask(ImageInput::file(path).await.context("--mask")?),
            None => request,
        };
        let request = match self.background {
            Some(background) => request.background(background),
            None => request,
        };
        let of_extension = || self.out.as_deref().and_then(files::format_of);
        Ok(match self.format.or_else(of_extension) {
            Some(format) => request.format(format),
            None => request,
        })
    }

    fn limiter(&self) -> Result<Limiter> {
        let policy = match (&self.policy, &self.preset) {
            (Some(path), _) => {
                let named = || format!("--policy {}", path.display());
                let text = std::fs::read_to_string(path).with_context(named)?;
                Policy::from_toml(&text).with_context(named)?
            }
            (None, Some(name)) => Policy::preset(name).context("--preset")?,
            (None, None) => unlimited::policy(),
        };
        let builder = Limiter::builder().policy(policy);
        let builder = match &self.redis {
            Some(url) => builder.redis(url.as_str()),
            None => builder.in_memory(),
        };
        Ok(builder.build()?)
    }

    fn subject(&self) -> Subject {
        let subject = Subject::org(self.org.as_str());
        match &self.user {
            Some(user) => subject.user(user.as_str()),
            None => subject,
        }
    }
}
