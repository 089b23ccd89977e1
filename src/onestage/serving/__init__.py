"""A model behind HTTP: images in, detections out, and a page to try it in the browser."""
