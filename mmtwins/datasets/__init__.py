"""Classes of data sets, and checks before training: annotation files, labels, images, with a report and pictures."""
