"""Looking at a collection: its figures, its charts and the page of both."""
