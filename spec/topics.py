"""The topics in the order in which they are taught."""

TOPICS = (
    "paged_attention",
    "moe",
    "speculative_decoding",
    "rag",
    "agent",
    "long_context",
    "serving",
)
