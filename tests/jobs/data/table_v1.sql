BEGIN TRANSACTION;
CREATE TABLE svd_jobs (
	id VARCHAR(32) NOT NULL, 
	number BIGINT NOT NULL, 
	state VARCHAR(7) NOT NULL, 
	rank INTEGER NOT NULL, 
	owner VARCHAR(200) NOT NULL, 
	options TEXT NOT NULL, 
	params TEXT, 
	image VARCHAR(64), 
	image_url TEXT, 
	version INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	worker VARCHAR(32), 
	stop_asked BOOLEAN NOT NULL, 
	submitted FLOAT NOT NULL, 
	start_by FLOAT, 
	started FLOAT, 
	ended FLOAT, 
	expires FLOAT, 
	bytes BIGINT NOT NULL, 
	record TEXT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (number)
);
INSERT INTO "svd_jobs" VALUES('963d5ac115b0493a8b9144a79ebc8560',1,'ended',0,'ann','{"priority": "normal", "start_timeout_s": null, "max_waiting": null, "owner": "ann", "webhook": "http://127.0.0.1:9/x", "keep_s": null, "keep_photo": false, "memo": "{\"sheet\": \"a\"}"}','{"seed": 7, "motion_bucket_id": 80, "noise_aug_strength": 0.02, "fps": 7, "playback_fps": null, "num_frames": null, "num_inference_steps": null, "min_guidance_scale": null, "max_guidance_scale": null, "decode_chunk_size": null, "orientation": "auto", "fit": "crop", "focus_x": 0.5, "focus_y": 0.5, "speed": "exact", "interpolation": "off", "model": null}',NULL,NULL,3,1,NULL,0,1.79584999590489387518e+09,NULL,1.79584999591137146942e+09,1795849995.99275,NULL,2180,'[[1, 1795849995.904894, {"is": "progress", "stage": "queued", "step": 0, "total": 0, "elapsed_s": 0.0, "remaining_s": null, "note": null}], [2, 1795849995.915366, {"is": "progress", "stage": "denoising", "step": 1, "total": 8, "elapsed_s": 1, "remaining_s": 7, "note": null}], [3, 1795849995.915392, {"is": "progress", "stage": "denoising", "step": 2, "total": 8, "elapsed_s": 2, "remaining_s": 6, "note": null}], [4, 1795849995.915402, {"is": "progress", "stage": "denoising", "step": 3, "total": 8, "elapsed_s": 3, "remaining_s": 5, "note": null}], [5, 1795849995.91541, {"is": "progress", "stage": "denoising", "step": 4, "total": 8, "elapsed_s": 4, "remaining_s": 4, "note": null}], [6, 1795849995.915418, {"is": "progress", "stage": "denoising", "step": 5, "total": 8, "elapsed_s": 5, "remaining_s": 3, "note": null}], [7, 1795849995.915425, {"is": "progress", "stage": "denoising", "step": 6, "total": 8, "elapsed_s": 6, "remaining_s": 2, "note": null}], [8, 1795849995.915431, {"is": "progress", "stage": "denoising", "step": 7, "total": 8, "elapsed_s": 7, "remaining_s": 1, "note": null}], [9, 1795849995.915443, {"is": "progress", "stage": "denoising", "step": 8, "total": 8, "elapsed_s": 8, "remaining_s": 0, "note": null}], [10, 1795849995.99275, {"is": "succeeded", "path": "/videos/963d5ac115b0493a8b9144a79ebc8560.mp4", "width": 128, "height": 72, "num_frames": 8, "fps": 7, "seed": 7, "model": "fake", "elapsed_s": 1.2, "notes": [], "motion": "gentle", "peak_memory": 1234000000}]]');
INSERT INTO "svd_jobs" VALUES('c3d82e2a278a4b0686256c95674dbd37',2,'ended',0,'ann','{"priority": "normal", "start_timeout_s": null, "max_waiting": null, "owner": "ann", "webhook": null, "keep_s": null, "keep_photo": false, "memo": ""}',NULL,NULL,NULL,2,0,NULL,0,1.79584999600473690026e+09,NULL,NULL,1.79584999600536465648e+09,NULL,0,'[[1, 1795849996.004737, {"is": "progress", "stage": "queued", "step": 0, "total": 0, "elapsed_s": 0.0, "remaining_s": null, "note": null}], [2, 1795849996.005365, {"is": "failed", "class": "InvalidImage", "status": 422, "carried": {"message": "The photo is damaged.", "field": "image", "reason": "damaged"}}]]');
CREATE TABLE svd_line (
	id INTEGER NOT NULL, 
	version INTEGER NOT NULL, 
	number BIGINT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "svd_line" VALUES(1,1,2);
CREATE TABLE svd_outbox (
	job_id VARCHAR(32) NOT NULL, 
	url TEXT NOT NULL, 
	state VARCHAR(9) NOT NULL, 
	tries INTEGER NOT NULL, 
	problem TEXT NOT NULL, 
	PRIMARY KEY (job_id)
);
INSERT INTO "svd_outbox" VALUES('963d5ac115b0493a8b9144a79ebc8560','http://127.0.0.1:9/x','due',0,'');
CREATE INDEX svd_jobs_image ON svd_jobs (image);
CREATE INDEX svd_jobs_line ON svd_jobs (state, rank, number);
CREATE INDEX svd_jobs_owner ON svd_jobs (owner, number);
CREATE INDEX svd_jobs_ended ON svd_jobs (ended);
CREATE INDEX svd_outbox_state ON svd_outbox (state);
COMMIT;
