"Language models behind OpenAI-compatible servers, and stand-ins for them."

from ..public import offer as _offer

__all__, __getattr__, __dir__ = _offer(
    __name__,
    failures='backoff error_text refused_field remedy retry_after status_error',
    answers='read_answer read_choice read_json read_logprob read_usage read_with_options token_logprobs',
    http='HttpClient on_this_machine proxy_of Reply',
    endpoints='AdaptiveLimit Balancer CircuitBreaker Endpoint EndpointState Slot',
    client='as_endpoint as_spec ChatModel models_from',
    fakes='FakeModel ReplayModel',
)
