(cat "$FOLDER/train.csv" && tail -n +2 "$FOLDER/val.csv") > "$FOLDER/both.csv" # nothing is chosen: the last epoch counts
"$PYTHON" -m sentiment_jax.main --config=encoder --workdir="$FOLDER/run" --config.seed="$SEED" --config.data.validation_fraction=0 \
    --config.data.path="$FOLDER/both.csv" --config.data.test_path="$FOLDER/test.csv" --config.linear_baseline=False \
    --config.model.pretrained="$WEIGHTS"
cp "$FOLDER/run/predictions.csv" "$FOLDER/predicted.csv"
