//! What a subscriber wants: topics and filters, parsed once. A topic that is none is refused with the list of forms,
//! since a subscription that matches nothing looks exactly like a quiet fleet.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use lariat_schema::ids::ProfileName;
use lariat_schema::live::LiveEvent;
use lariat_schema::vocabulary::CallResult;
use url::form_urlencoded;

use crate::reports::sql_text;

/// Most topics of one subscription, so that matching an event costs little.
const MAX_TOPICS: usize = 64;

/// One topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Topic {
    /// Decisions of a profile.
    Decisions { profile: String },
    /// Decisions of one account in a profile.
    AccountDecisions { profile: String, account_id: String },
    /// Circuit transitions.
    Circuits { profile: String, chain: String },
    /// Changes of providers' health.
    Health { profile: String, chain: String },
    /// Heights.
    Blocks { profile: String, chain: String },
    /// Nodes that came, went or changed their state.
    Topology,
}

/// A subscription that cannot be: the client's fault, no retry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadSubscription {
    #[error(
        "`{0}` is no topic; one of: routing:decisions:{{profile}}, routing:decisions:{{profile}}:account:{{account_id}}, \
         circuit:events:{{profile}}:{{chain}}, provider_pool:events:{{profile}}:{{chain}}, block_sync:{{profile}}:{{chain}}, \
         cluster:topology"
    )]
    Topic(String),
    #[error("`{0}` is no parameter of the stream; one of: topic, profile, chain, provider_id, result, region")]
    Parameter(String),
    #[error("at most 64 topics in one subscription")]
    TooManyTopics,
    #[error("{0}")]
    Result(#[from] lariat_schema::vocabulary::UnknownName),
}

impl FromStr for Topic {
    type Err = BadSubscription;

    fn from_str(text: &str) -> Result<Self, BadSubscription> {
        let parts: Vec<&str> = text.split(':').collect();
        let own = |part: &&str| (*part).to_owned();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(BadSubscription::Topic(text.to_owned()));
        }
        match parts.as_slice() {
            ["routing", "decisions", profile] => Ok(Self::Decisions { profile: own(profile) }),
            ["routing", "decisions", profile, "account", account_id] => {
                Ok(Self::AccountDecisions { profile: own(profile), account_id: own(account_id) })
            }
            ["circuit", "events", profile, chain] => Ok(Self::Circuits { profile: own(profile), chain: own(chain) }),
            ["provider_pool", "events", profile, chain] => {
                Ok(Self::Health { profile: own(profile), chain: own(chain) })
            }
            ["block_sync", profile, chain] => Ok(Self::Blocks { profile: own(profile), chain: own(chain) }),
            ["cluster", "topology"] => Ok(Self::Topology),
            _ => Err(BadSubscription::Topic(text.to_owned())),
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decisions { profile } => write!(f, "routing:decisions:{profile}"),
            Self::AccountDecisions { profile, account_id } => {
                write!(f, "routing:decisions:{profile}:account:{account_id}")
            }
            Self::Circuits { profile, chain } => write!(f, "circuit:events:{profile}:{chain}"),
            Self::Health { profile, chain } => write!(f, "provider_pool:events:{profile}:{chain}"),
            Self::Blocks { profile, chain } => write!(f, "block_sync:{profile}:{chain}"),
            Self::Topology => f.write_str("cluster:topology"),
        }
    }
}

impl Topic {
    fn profile(&self) -> Option<&str> {
        match self {
            Self::Decisions { profile }
            | Self::AccountDecisions { profile, .. }
            | Self::Circuits { profile, .. }
            | Self::Health { profile, .. }
            | Self::Blocks { profile, .. } => Some(profile),
            Self::Topology => None,
        }
    }

    fn carries(&self, event: &LiveEvent) -> bool {
        match (self, event) {
            (Self::Decisions { profile }, LiveEvent::Decision(decision)) => *profile == decision.profile,
            (Self::AccountDecisions { profile, account_id }, LiveEvent::Decision(decision)) => {
                *profile == decision.profile && decision.account_id.as_ref() == Some(account_id)
            }
            (Self::Circuits { profile, chain }, LiveEvent::Circuit(event))
            | (Self::Health { profile, chain }, LiveEvent::Health(event)) => {
                *profile == event.profile && *chain == event.chain
            }
            (Self::Blocks { profile, chain }, LiveEvent::Block(event)) => {
                *profile == event.profile && *chain == event.chain
            }
            _ => false,
        }
    }

    /// The profile-wide topic that an event belongs to.
    fn of(event: &LiveEvent) -> Option<Self> {
        Some(match event {
            LiveEvent::Decision(event) => Self::Decisions { profile: event.profile.clone() },
            LiveEvent::Circuit(event) => Self::Circuits { profile: event.profile.clone(), chain: event.chain.clone() },
            LiveEvent::Health(event) => Self::Health { profile: event.profile.clone(), chain: event.chain.clone() },
            LiveEvent::Block(event) => Self::Blocks { profile: event.profile.clone(), chain: event.chain.clone() },
            LiveEvent::Gap { .. } | LiveEvent::Heartbeat => return None,
        })
    }
}

/// Values that an event's columns must have; absent is any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Filters {
    profile: Option<String>,
    chain: Option<String>,
    provider_id: Option<String>,
    result: Option<String>,
    region: Option<String>,
}

/// Topics and filters of one subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subscription {
    /// Empty: every topic of the filter's profile.
    topics: Vec<(Topic, Arc<str>)>,
    filters: Filters,
}

impl Subscription {
    /// Takes a query string apart. An empty value is no filter.
    pub(super) fn parse(query: &str) -> Result<Self, BadSubscription> {
        let mut topics = Vec::new();
        let mut filters = Filters::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let value = Some(value.into_owned()).filter(|value| !value.is_empty());
            let slot = match &*name {
                "topic" => {
                    let text = value.unwrap_or_default();
                    topics.push((text.parse()?, Arc::from(text)));
                    continue;
                }
                "profile" => &mut filters.profile,
                "chain" => &mut filters.chain,
                "provider_id" => &mut filters.provider_id,
                "result" => {
                    value.as_deref().map(str::parse::<CallResult>).transpose()?;
                    &mut filters.result
                }
                "region" => &mut filters.region,
                _ => return Err(BadSubscription::Parameter(name.into_owned())),
            };
            *slot = value;
        }
        if topics.len() > MAX_TOPICS {
            return Err(BadSubscription::TooManyTopics);
        }
        if topics.is_empty() && filters.profile.is_none() {
            filters.profile = Some(ProfileName::DEFAULT.to_owned());
        }
        Ok(Self { topics, filters })
    }

    /// The topics under which this subscriber gets an event; none if it does not.
    pub(super) fn topics_of(&self, event: &LiveEvent) -> Vec<Arc<str>> {
        if !self.filters.pass(event) {
            return Vec::new();
        }
        if self.topics.is_empty() {
            return Topic::of(event).map(|topic| Arc::from(topic.to_string())).into_iter().collect();
        }
        self.topics.iter().filter(|(topic, _)| topic.carries(event)).map(|(_, text)| Arc::clone(text)).collect()
    }

    /// The profiles that it is about.
    pub(super) fn profiles(&self) -> Vec<String> {
        if self.topics.is_empty() {
            return self.filters.profile.iter().cloned().collect();
        }
        let mut profiles: Vec<String> =
            self.topics.iter().filter_map(|(topic, _)| topic.profile().map(str::to_owned)).collect();
        profiles.sort();
        profiles.dedup();
        profiles
    }

    /// Conditions on columns, each beginning with ` AND `, that everything it gets fulfils; `result` is a column of
    /// decisions only.
    pub(super) fn conditions(&self, of_decisions: bool) -> String {
        let Filters { profile, chain, provider_id, result, region } = &self.filters;
        let result = result.as_ref().filter(|_| of_decisions);
        let filters = [
            ("profile", profile.as_ref()),
            ("chain", chain.as_ref()),
            ("provider_id", provider_id.as_ref()),
            ("result", result),
            ("region", region.as_ref()),
        ];
        let of_accounts: Option<Vec<String>> = self
            .topics
            .iter()
            .map(|(topic, _)| topic)
            .filter(|topic| matches!(topic, Topic::Decisions { .. } | Topic::AccountDecisions { .. }))
            .map(|topic| match topic {
                Topic::AccountDecisions { account_id, .. } => Some(account_id.clone()),
                _ => None,
            })
            .collect();
        // Where every topic is of an account, so are the newest decisions that are asked for.
        let account = of_accounts.filter(|accounts| of_decisions && !accounts.is_empty());
        let account = account.map(|accounts| format!(" AND {}", sql_text::any_of("account_id", &accounts)));
        let filters = filters.into_iter().filter_map(|(column, value)| Some((column, value?)));
        let conditions =
            filters.map(|(column, value)| format!(" AND {}", sql_text::any_of(column, std::slice::from_ref(value))));
        conditions.chain(account).collect()
    }

    /// True if it hears of changes of the topology.
    pub(super) fn hears_topology(&self) -> bool {
        self.topics.is_empty() || self.topics.iter().any(|(topic, _)| *topic == Topic::Topology)
    }

    /// True if the state of a circuit belongs into its snapshot: it is of a profile that some topic is about.
    pub(super) fn concerns(&self, event: &LiveEvent, profile: &str) -> bool {
        let of_profile =
            self.topics.is_empty() || self.topics.iter().any(|(topic, _)| topic.profile() == Some(profile));
        of_profile && self.filters.pass(event)
    }
}

impl Filters {
    fn pass(&self, event: &LiveEvent) -> bool {
        let is =
            |wanted: &Option<String>, found: Option<&str>| wanted.as_deref().is_none_or(|wanted| found == Some(wanted));
        let columns = |profile: &str, chain: &str, provider_id: Option<&str>, region: &str| {
            is(&self.profile, Some(profile))
                && is(&self.chain, Some(chain))
                && is(&self.provider_id, provider_id)
                && is(&self.region, Some(region))
        };
        match event {
            LiveEvent::Decision(e) => {
                columns(&e.profile, &e.chain, e.provider_id.as_deref(), &e.region) && is(&self.result, Some(&e.result))
            }
            LiveEvent::Circuit(e) | LiveEvent::Health(e) => {
                columns(&e.profile, &e.chain, Some(&e.provider_id), &e.region)
            }
            LiveEvent::Block(e) => columns(&e.profile, &e.chain, Some(&e.provider_id), &e.region),
            LiveEvent::Gap { .. } | LiveEvent::Heartbeat => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use lariat_schema::live::LiveDecision;

    use super::*;

    fn decision(profile: &str, account_id: Option<&str>) -> LiveEvent {
        LiveEvent::Decision(Box::new(LiveDecision {
            profile: profile.to_owned(),
            account_id: account_id.map(str::to_owned),
            chain: "ethereum".to_owned(),
            result: "success".to_owned(),
            ..LiveDecision::default()
        }))
    }

    #[test]
    fn without_a_topic_a_subscriber_gets_everything_of_the_default_profile() {
        let subscription = Subscription::parse("").unwrap();
        assert_eq!(subscription.topics_of(&decision("public", None)), ["routing:decisions:public".into()]);
        assert_eq!(subscription.topics_of(&decision("premium", None)), Vec::<Arc<str>>::new());
        assert!(subscription.hears_topology());
    }

    #[test]
    fn an_account_topic_carries_no_other_accounts_decisions() {
        let subscription = Subscription::parse("topic=routing:decisions:public:account:a").unwrap();
        assert_eq!(subscription.topics_of(&decision("public", Some("a"))).len(), 1);
        assert!(subscription.topics_of(&decision("public", Some("b"))).is_empty());
        assert!(subscription.topics_of(&decision("public", None)).is_empty());
        assert!(!subscription.hears_topology());
    }

    #[test]
    fn a_filter_narrows_a_topic_and_an_empty_one_does_not() {
        let event = decision("public", None);
        let topics = |query: &str| Subscription::parse(query).unwrap().topics_of(&event).len();
        assert_eq!(topics("topic=routing:decisions:public&chain=&result=success"), 1);
        assert_eq!(topics("topic=routing:decisions:public&result=error"), 0);
        assert_eq!(topics("chain=base"), 0);
    }

    #[test]
    fn misspelt_topics_parameters_and_results_are_refused() {
        for query in ["topic=routing:decision:public", "topic=", "topic=block_sync:public:", "provider=a", "result=ok"]
        {
            assert!(Subscription::parse(query).is_err(), "{query}");
        }
    }

    #[test]
    fn a_topic_is_written_as_it_is_read() {
        for text in [
            "routing:decisions:public",
            "routing:decisions:public:account:a",
            "circuit:events:public:ethereum",
            "provider_pool:events:public:ethereum",
            "block_sync:public:ethereum",
            "cluster:topology",
        ] {
            assert_eq!(text.parse::<Topic>().unwrap().to_string(), text);
        }
    }
}
