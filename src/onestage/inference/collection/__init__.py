"""Prediction over collections of images too large for one machine or one run.

Ray gives each worker (an actor that holds a predictor) cores and GPUs of its own, and starts one that died again with
the part it had. pyarrow opens object storage, and reads and writes Parquet.

What is ours, and why:

- A plan, written first (`plan.py`). All images are listed into a Parquet file before the first is read, so part 17
  holds the same images in every run and on every worker, however the folder changes meanwhile.
- A file of results for each part, named by the part alone (`results.py`). A part that is done twice leaves one file,
  and the names say what is left, so the same command goes on. Ray Data's `write_parquet` invents names in every run:
  what a killed run had written would be there twice after the next.
- A row for every image (`workers.py`). An image that can't be read has its error there.
- Names without credentials (`storage.py`), since they stand in results.
"""
