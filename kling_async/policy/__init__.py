"""Pure decisions about time: when to poll, when to repeat a request, when to pause."""
