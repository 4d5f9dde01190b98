"""Looking at a folder, a video or a camera for as long as it runs, and telling what is new."""
