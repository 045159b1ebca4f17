//! The tree. Each expression knows where it starts, because annotations point there; durations are expressions, because
//! PromQL lets them be computed from the query's own range and step.

use super::super::labels::Matcher;
use super::signatures::Signature;

/// Type of an expression's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ValueType {
    /// One float per step.
    Scalar,
    /// At most one sample per series and step.
    Vector,
    /// A window of samples per series and step.
    Matrix,
    /// A text.
    Text,
}

impl ValueType {
    /// The name that error messages use.
    pub(crate) const fn documented(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Vector => "instant vector",
            Self::Matrix => "range vector",
            Self::Text => "string",
        }
    }
}

/// An expression and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Expr {
    /// What it is.
    pub(crate) node: Node,
    /// Byte offset of its first character in the query.
    pub(crate) start: usize,
}

/// What an expression is.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    /// A number; a duration counts in seconds.
    Number(f64),
    /// A text.
    Text(String),
    /// The latest sample of each matching series.
    Selector(Selector),
    /// A window of each matching series; its length is an expression in seconds.
    Range(Selector, Box<Expr>),
    /// An expression evaluated over a window.
    Subquery(Box<Subquery>),
    /// A function.
    Call(&'static Signature, Vec<Expr>),
    /// An aggregation.
    Aggregate(Box<Aggregate>),
    /// Two operands.
    Binary(Box<Binary>),
    /// A negation.
    Negate(Box<Expr>),
    /// Something in parentheses.
    Paren(Box<Expr>),
}

/// Which series, and when.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selector {
    /// All must hold; the metric's name is one of them.
    pub(crate) matchers: Vec<Matcher>,
    /// How far back, in seconds.
    pub(crate) offset: Option<Box<Expr>>,
    /// A fixed moment instead of the evaluation's.
    pub(crate) at: Option<At>,
    /// Ends of a range are the samples before them.
    pub(crate) anchored: bool,
    /// Ends of a range are interpolated.
    pub(crate) smoothed: bool,
}

impl Selector {
    /// The metric's name, if it is given by equality.
    pub(crate) fn metric(&self) -> Option<&str> {
        self.matchers
            .iter()
            .find(|matcher| matcher.name == super::super::labels::NAME && matcher.is_equal())
            .map(|matcher| matcher.value.as_str())
    }
}

/// A fixed moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum At {
    /// Unix milliseconds.
    Moment(i64),
    /// Start of the query.
    Start,
    /// End of the query.
    End,
}

/// An expression evaluated over a window.
#[derive(Debug, Clone)]
pub(crate) struct Subquery {
    /// What is evaluated.
    pub(crate) inner: Expr,
    /// Length of the window in seconds.
    pub(crate) range: Expr,
    /// Distance of evaluations in seconds.
    pub(crate) step: Option<Expr>,
    /// How far back, in seconds.
    pub(crate) offset: Option<Box<Expr>>,
    /// A fixed moment instead of the evaluation's.
    pub(crate) at: Option<At>,
}

/// An aggregation.
#[derive(Debug, Clone)]
pub(crate) struct Aggregate {
    /// Its lower-case name.
    pub(crate) op: &'static str,
    /// What is aggregated.
    pub(crate) inner: Expr,
    /// Its first argument, where it has two.
    pub(crate) parameter: Option<Expr>,
    /// Labels to group by, or to leave out.
    pub(crate) grouping: Vec<String>,
    /// True if `grouping` is left out.
    pub(crate) without: bool,
}

/// A binary operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is its own sign, see `sign`")]
pub(crate) enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Atan2,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    And,
    Or,
    Unless,
    TrimUpper,
    TrimLower,
}

impl BinaryOp {
    /// The operator that this sign or keyword is.
    pub(crate) fn from_sign(sign: &str) -> Option<Self> {
        Some(match sign.to_ascii_lowercase().as_str() {
            "+" => Self::Add,
            "-" => Self::Sub,
            "*" => Self::Mul,
            "/" => Self::Div,
            "%" => Self::Mod,
            "^" => Self::Pow,
            "atan2" => Self::Atan2,
            "==" => Self::Equal,
            "!=" => Self::NotEqual,
            "<" => Self::Less,
            "<=" => Self::LessOrEqual,
            ">" => Self::Greater,
            ">=" => Self::GreaterOrEqual,
            "and" => Self::And,
            "or" => Self::Or,
            "unless" => Self::Unless,
            "</" => Self::TrimUpper,
            ">/" => Self::TrimLower,
            _ => return None,
        })
    }

    /// Its sign.
    pub(crate) const fn sign(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Sub => "-",
            Self::Mul => "*",
            Self::Div => "/",
            Self::Mod => "%",
            Self::Pow => "^",
            Self::Atan2 => "atan2",
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::And => "and",
            Self::Or => "or",
            Self::Unless => "unless",
            Self::TrimUpper => "</",
            Self::TrimLower => ">/",
        }
    }

    /// How tightly it binds.
    pub(crate) const fn precedence(self) -> u8 {
        match self {
            Self::Or => 1,
            Self::And | Self::Unless => 2,
            Self::Equal | Self::NotEqual | Self::Less | Self::LessOrEqual | Self::Greater | Self::GreaterOrEqual => 3,
            Self::TrimUpper | Self::TrimLower => 3,
            Self::Add | Self::Sub => 4,
            Self::Mul | Self::Div | Self::Mod | Self::Atan2 => 5,
            Self::Pow => 6,
        }
    }

    /// True for `==`, `<` and their like.
    pub(crate) const fn compares(self) -> bool {
        matches!(
            self,
            Self::Equal | Self::NotEqual | Self::Less | Self::LessOrEqual | Self::Greater | Self::GreaterOrEqual
        )
    }

    /// True for `and`, `or`, `unless`.
    pub(crate) const fn is_set(self) -> bool {
        matches!(self, Self::And | Self::Or | Self::Unless)
    }
}

/// How many series of one side match one of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cardinality {
    /// One to one.
    OneToOne,
    /// `group_left`.
    ManyToOne,
    /// `group_right`.
    OneToMany,
}

/// Two operands.
#[derive(Debug, Clone)]
pub(crate) struct Binary {
    /// What to do with them.
    pub(crate) op: BinaryOp,
    /// The first.
    pub(crate) left: Expr,
    /// The second.
    pub(crate) right: Expr,
    /// 0 or 1 instead of filtering.
    pub(crate) returns_bool: bool,
    /// True if `labels` are the only ones that have to agree.
    pub(crate) on: bool,
    /// Labels that have to agree, or are ignored.
    pub(crate) labels: Vec<String>,
    /// How many match.
    pub(crate) cardinality: Cardinality,
    /// Labels to take from the "one" side.
    pub(crate) include: Vec<String>,
    /// Value of a missing left side.
    pub(crate) fill_left: Option<f64>,
    /// Value of a missing right side.
    pub(crate) fill_right: Option<f64>,
}

impl Expr {
    /// Type of its value.
    pub(crate) fn value_type(&self) -> ValueType {
        match &self.node {
            Node::Number(_) => ValueType::Scalar,
            Node::Text(_) => ValueType::Text,
            Node::Selector(_) | Node::Aggregate(_) => ValueType::Vector,
            Node::Range(..) | Node::Subquery(_) => ValueType::Matrix,
            Node::Call(signature, _) => signature.returns,
            Node::Negate(inner) | Node::Paren(inner) => inner.value_type(),
            Node::Binary(binary) => match (binary.left.value_type(), binary.right.value_type()) {
                (ValueType::Scalar, ValueType::Scalar) => ValueType::Scalar,
                _ => ValueType::Vector,
            },
        }
    }

    /// Itself without parentheses around it.
    pub(crate) fn bare(&self) -> &Self {
        match &self.node {
            Node::Paren(inner) => inner.bare(),
            _ => self,
        }
    }

    /// Calls `visit` with itself and everything inside it.
    pub(crate) fn walk<'a>(&'a self, visit: &mut dyn FnMut(&'a Self)) {
        visit(self);
        match &self.node {
            Node::Number(_) | Node::Text(_) | Node::Selector(_) => {}
            Node::Range(_, range) => range.walk(visit),
            Node::Subquery(subquery) => subquery.inner.walk(visit),
            Node::Call(_, arguments) => arguments.iter().for_each(|argument| argument.walk(visit)),
            Node::Aggregate(aggregate) => {
                if let Some(parameter) = &aggregate.parameter {
                    parameter.walk(visit);
                }
                aggregate.inner.walk(visit);
            }
            Node::Binary(binary) => {
                binary.left.walk(visit);
                binary.right.walk(visit);
            }
            Node::Negate(inner) | Node::Paren(inner) => inner.walk(visit),
        }
    }
}
