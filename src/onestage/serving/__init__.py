"""A model behind HTTP: pictures in, detections out, and a page to try it in the browser."""
