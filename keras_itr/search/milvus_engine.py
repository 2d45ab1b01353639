from pathlib import Path

import numpy as np

from keras_itr.search.nearest import best_first

_BLOCK_BYTES = 1 << 24  # a message to a server may hold 64 MB
_MOST = 16384  # what Milvus gives back for one query at most


class MilvusEngine:
    """The engine of a `GalleryIndex` whose vectors lie in Milvus: a file on this machine, or a server anywhere.

    Both are one class, `pymilvus.MilvusClient`, and differ in the address alone. The index keeps the ids of the items;
    Milvus has the vectors, under the numbers of their rows, and finds. What is added or deleted is there at once, so
    that `save` must follow, which writes the ids: until then the folder and the collection differ, and `load` says so.

    Measured with the embedded form, milvus-lite 3.2. **The server form could not be run here**; it is the same calls.

    Args:
        dim: int, width of the vectors.
        uri: `"gallery.db"` for a file, or `"http://host:19530"`.
        collection: string, default `"gallery"`. It must not be there yet.
        overwrite: bool, default False: whether a collection of this name is dropped first.
        index_type: string, default `"FLAT"`, which is exact; for a server `"IVF_FLAT"`, `"HNSW"` and so on.
        index_params: dict, parameters of it, such as `{"nlist": 1024}`; None (default) for none.
        search_params: dict, such as `{"nprobe": 16}`; None (default) for none.
        token: string, `"user:password"` of a server; None (default). It is not saved: `load` takes it again.

    Raises:
        ImportError: if pymilvus is not installed, or milvus-lite for a file.
        ValueError: if the collection is there already, or the address is missing.

    Example: see `GalleryIndex`, which uses it.

    Reference: https://milvus.io/docs; the order of equals at the border is what Milvus makes of it.
    """

    # Rows keep their numbers: Milvus knows the vectors by them.
    renumbers = False
    # Whatever its index type misses cannot be measured here: only Milvus has the vectors.
    approximate = False

    def __init__(
        self,
        dim,
        uri=None,
        collection="gallery",
        overwrite=False,
        index_type="FLAT",
        index_params=None,
        search_params=None,
        token=None,
    ):
        if not uri:
            raise ValueError('engine "milvus" needs uri, such as "gallery.db" or "http://host:19530".')
        self.dim = dim
        # A file is found again from anywhere.
        self.uri = str(uri) if _is_server(str(uri)) else str(Path(uri).absolute())
        self.collection = collection
        self.overwrite = overwrite
        self.index_type = index_type
        self.index_params = index_params
        self.search_params = search_params
        self.client = _client(self.uri, token)
        self.count = 0

    @property
    def settings(self):
        return {
            "uri": self.uri,
            "collection": self.collection,
            "index_type": self.index_type,
            "index_params": self.index_params,
            "search_params": self.search_params,
        }

    def add(self, vectors):
        if not self.count:
            self._create()
        step = max(1, _BLOCK_BYTES // vectors[:1].nbytes)
        for start in range(0, len(vectors), step):
            part = vectors[start : start + step]
            first = self.count + start
            self.client.insert(
                self.collection, [{"row": first + row, "vector": vector} for row, vector in enumerate(part)]
            )
        self.count += len(vectors)

    def delete(self, rows):
        for start in range(0, len(rows), _MOST):
            self.client.delete(self.collection, ids=rows[start : start + _MOST].tolist())

    def search(self, queries, k, alive):
        if k > _MOST:
            raise ValueError(f"k may be at most {_MOST} with Milvus, got {k}.")
        hits = [
            of_query
            for start in range(0, len(queries), 1024)
            for of_query in self._found(queries[start : start + 1024], k)
        ]
        least = min(map(len, hits))
        if least < k:
            raise ValueError(f"Milvus found {least} of {k} items for a query; raise search_params, or ask for fewer.")
        rising = [sorted((hit["row"], hit["distance"]) for hit in of_query) for of_query in hits]
        rows, scores = np.array(rising, "float64").transpose(2, 0, 1)
        return best_first(rows.astype(np.int64), scores.astype("float32"))

    def exact_search(self, queries, k, alive):
        raise ValueError("recall needs the vectors, and only Milvus has them; measure it with the engine 'faiss'.")

    def vectors(self, rows):
        found = self.client.get(self.collection, ids=rows.tolist(), output_fields=["row", "vector"])
        by_row = {hit["row"]: hit["vector"] for hit in found}
        return np.array([by_row[row] for row in rows.tolist()], "float32").reshape(-1, self.dim)

    def save(self, directory, rows):
        """Nothing: the vectors are in Milvus."""

    def load(self, directory, rows):
        there = self._stored() if self.client.has_collection(self.collection) else 0
        if there != len(rows):
            raise ValueError(
                f"{self.uri}, collection {self.collection!r}, holds {there} vectors, the index was saved with "
                f"{len(rows)}; save after every change, or index anew."
            )
        self.client.load_collection(self.collection)
        self.count = int(rows[-1]) + 1 if len(rows) else 0

    def discard(self):
        self.client.drop_collection(self.collection)

    def _found(self, queries, k):
        return self.client.search(
            self.collection,
            data=list(queries),
            anns_field="vector",
            limit=k,
            output_fields=["row"],
            search_params={"metric_type": "IP", "params": self.search_params or {}},
            consistency_level="Strong",
        )

    def _stored(self):
        counted = self.client.query(self.collection, filter="", output_fields=["count(*)"], consistency_level="Strong")
        return counted[0]["count(*)"]

    def _create(self):
        from pymilvus import DataType, MilvusClient

        if self.client.has_collection(self.collection):
            if not self.overwrite:
                raise ValueError(
                    f"{self.uri} holds a collection {self.collection!r} already; load the index it belongs to, choose "
                    "another collection, or pass overwrite=True to drop it."
                )
            self.client.drop_collection(self.collection)
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("row", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self.dim)
        parameters = MilvusClient.prepare_index_params()
        parameters.add_index("vector", index_type=self.index_type, metric_type="IP", params=self.index_params or {})
        self.client.create_collection(self.collection, schema=schema, index_params=parameters)


def _is_server(uri):
    return uri.startswith(("http://", "https://", "tcp://", "unix:"))


def _client(uri, token):
    try:
        from pymilvus import MilvusClient

        if not _is_server(uri):
            import milvus_lite  # noqa: F401
    except ImportError as error:
        raise ImportError('engine "milvus" needs pymilvus and milvus-lite: pip install "keras-itr[search]"') from error
    return MilvusClient(uri, token=token or "")
