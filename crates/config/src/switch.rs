//! Switches with a third position: `true`, `false` and a word.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Bool(bool),
    Word(String),
}

macro_rules! switch {
    ($name:ident, $word:literal, $third:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self {
                    Self::True => serializer.serialize_bool(true),
                    Self::False => serializer.serialize_bool(false),
                    Self::$third => serializer.serialize_str($word),
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                match Written::deserialize(deserializer)? {
                    Written::Bool(true) => Ok(Self::True),
                    Written::Bool(false) => Ok(Self::False),
                    Written::Word(word) if word == $word => Ok(Self::$third),
                    Written::Word(_) => Err(de::Error::custom(concat!("expected true, false or ", $word))),
                }
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"enum": [true, false, $word]})
            }
        }
    };
}

/// Whether a collector runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enabled {
    /// It runs if this kernel can.
    #[default]
    True,
    /// It does not run.
    False,
    /// It runs, and an unmet need is fatal.
    Require,
}

/// Whether something is used that may or may not be there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Switch {
    /// It is used.
    True,
    /// It is not used.
    False,
    /// It is used where it is found.
    #[default]
    Auto,
}

switch!(Enabled, "require", Require);
switch!(Switch, "auto", Auto);
