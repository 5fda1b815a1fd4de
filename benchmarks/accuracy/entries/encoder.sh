"$PYTHON" -m sentiment_jax.main --config=encoder --workdir="$FOLDER/run" --config.seed="$SEED" --config.model.pretrained="$WEIGHTS" \
    --config.data.path="$FOLDER/train.csv" --config.data.validation_path="$FOLDER/val.csv" --config.data.test_path="$FOLDER/test.csv"
cp "$FOLDER/run/predictions.csv" "$FOLDER/predicted.csv"
