"""A local page for a trained model, served with Gradio."""
