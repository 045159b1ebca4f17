//! What there is to ask for: names, labels, series, metadata, exemplars.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::super::labels::{Labels, Matcher, NAME};
use super::super::series::Wanted;
use super::super::syntax;
use super::answer::{ApiError, Reply};
use super::parameters::{Parameters, now};
use super::{Answered, Service, query};

/// How far back is looked where nobody says, in milliseconds.
const DEFAULT_WINDOW_MS: i64 = 3_600_000;

fn wanted(parameters: &Parameters) -> Result<Wanted, ApiError> {
    let to = parameters.moment("end")?.unwrap_or_else(now);
    let from = parameters.moment("start")?.unwrap_or(to - DEFAULT_WINDOW_MS);
    if to < from {
        return Err(ApiError::BadData(
            "invalid parameter \"end\": end timestamp must not be before start time".to_owned(),
        ));
    }
    let selectors: Result<Vec<Vec<Matcher>>, ApiError> = parameters
        .all("match[]")
        .map(|text| {
            let selector = syntax::parse_selector(text).map_err(|error| ApiError::syntax("match[]", text, &error))?;
            Ok(selector.matchers)
        })
        .collect();
    Ok(Wanted {
        selectors: selectors?,
        window: query::window(from, to),
        deadline: parameters.deadline()?,
        min_coverage: parameters.min_coverage()?,
        is_range: false,
    })
}

/// Sorted values up to the limit.
fn listed(values: BTreeSet<String>, limit: usize) -> Reply {
    let truncated = limit > 0 && values.len() > limit;
    let kept: Vec<String> = values.into_iter().take(if limit > 0 { limit } else { usize::MAX }).collect();
    let mut reply = Reply::new(json!(kept));
    if truncated {
        reply.warnings.push("results truncated due to limit".to_owned());
    }
    reply
}

pub(super) async fn labels(service: &Service, parameters: &Parameters) -> Answered {
    let found = service.loader.labels(&wanted(parameters)?).await?;
    let names = found.labels.iter().flat_map(Labels::iter).map(|(name, _)| name.to_owned()).collect();
    Ok(listed(names, parameters.limit()?).covered(found.coverage, &found.sampling))
}

pub(super) async fn label_values(service: &Service, name: &str, parameters: &Parameters) -> Answered {
    let wanted = wanted(parameters)?;
    if name == NAME && wanted.selectors.is_empty() {
        let entries = service.loader.metrics(&wanted).await?;
        let names = entries.iter().flat_map(|entry| entry.series_names()).collect();
        return Ok(listed(names, parameters.limit()?));
    }
    let found = service.loader.labels(&wanted).await?;
    let values = found.labels.iter().map(|labels| labels.get(name)).filter(|value| !value.is_empty());
    let values = values.map(str::to_owned).collect();
    Ok(listed(values, parameters.limit()?).covered(found.coverage, &found.sampling))
}

pub(super) async fn series(service: &Service, parameters: &Parameters) -> Answered {
    let wanted = wanted(parameters)?;
    if wanted.selectors.is_empty() {
        return Err(ApiError::BadData("no match[] parameter provided".to_owned()));
    }
    let mut found = service.loader.labels(&wanted).await?;
    found.labels.sort();
    found.labels.dedup();
    let limit = parameters.limit()?;
    let truncated = limit > 0 && found.labels.len() > limit;
    if truncated {
        found.labels.truncate(limit);
    }
    let mut reply = Reply::new(json!(found.labels)).covered(found.coverage, &found.sampling);
    if truncated {
        reply.warnings.push("results truncated due to limit".to_owned());
    }
    Ok(reply)
}

pub(super) async fn metadata(service: &Service, parameters: &Parameters) -> Answered {
    let entries = service.loader.metrics(&wanted(parameters)?).await?;
    let only = parameters.get("metric");
    let limit = parameters.limit()?;
    let mut metrics: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for entry in entries {
        if only.is_some_and(|only| only != entry.name) || (limit > 0 && metrics.len() >= limit) {
            continue;
        }
        let value = json!({"type": entry.shape.documented(), "help": entry.description, "unit": entry.unit});
        let values = metrics.entry(entry.name).or_default();
        if !values.contains(&value) {
            values.push(value);
        }
    }
    Ok(Reply::new(json!(metrics)))
}

pub(super) async fn exemplars(service: &Service, parameters: &Parameters) -> Answered {
    let text = parameters.required("query")?;
    let expr = syntax::parse(text).map_err(|error| ApiError::syntax("query", text, &error))?;
    let mut wanted = wanted(parameters)?;
    expr.walk(&mut |expr| match &expr.node {
        syntax::Node::Selector(selector) | syntax::Node::Range(selector, _) => {
            wanted.selectors.push(selector.matchers.clone());
        }
        _ => {}
    });
    let found = service.loader.exemplars(&wanted).await?;
    let data: Vec<Value> =
        found.into_iter().map(|(labels, exemplars)| json!({"seriesLabels": labels, "exemplars": exemplars})).collect();
    Ok(Reply::new(json!(data)))
}
