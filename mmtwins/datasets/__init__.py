"""Check data before training: annotation files, label images and images, with a report and pictures."""
