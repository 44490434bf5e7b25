"""Call sites as they are: the shapes of litellm and the OpenAI SDK, a decorator, a meter for what is not routed."""
