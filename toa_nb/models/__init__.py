"Language models behind OpenAI-compatible servers, and stand-ins for them."

from ..public import offer as _offer

__all__, __getattr__, __dir__ = _offer(
    __name__,
    failures='backoff error_text remedy retry_after status_error',
    thoughts='split_message split_text',
    answers='read_answer read_usage read_with_logprobs',
    http='HttpClient proxy_of Reply',
    endpoints='AdaptiveLimit Balancer CircuitBreaker Endpoint EndpointState Slot',
    connection='Connection',
    client='as_endpoint as_spec ChatModel',
    file='models_from read_table',
    fakes='FakeModel',
    replay='ReplayModel',
)
