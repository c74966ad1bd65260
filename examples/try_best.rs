use unicon::backend::cpu::Cpu; use unicon::backend::Backend; use unicon::fit::*; use unicon::io; use unicon::positives::Positives; use unicon::retrieval::recall_at_k; use unicon::model::Side;
fn main() -> unicon::Result<()> {
 let d=std::env::args().nth(1).unwrap(); let steps:usize=std::env::args().nth(2).unwrap().parse().unwrap();
 let fs:f64=std::env::args().nth(3).map_or(0.3,|s|s.parse().unwrap());
 let f=|n:&str| io::open(&format!("{d}/{n}.npy"));
 let (x,y,vx,vy,tx,ty)=(f("train_x")?,f("train_y")?,f("val_x")?,f("val_y")?,f("test_x")?,f("test_y")?);
 let pos=|n:&str,nx:usize,ny:usize| -> unicon::Result<Positives>{ let p=format!("{d}/{n}_indptr.npy"); if std::path::Path::new(&p).exists(){Positives::from_csr(&io::read_index_vector(&p)?,&io::read_index_vector(format!("{d}/{n}_indices.npy"))?,ny)}else{Ok(Positives::diagonal(nx))}};
 let (p,vp,tp)=(pos("train",x.rows(),y.rows())?,pos("val",vx.rows(),vy.rows())?,pos("test",tx.rows(),ty.rows())?);
 let b=Cpu::<f32>::new(0)?;
 let mut o=BestOptions::new(Rank::Fixed(128)); o.refine.first_step=fs; o.refine.max_steps=steps;
 let (m,info)=fit_best(&b,Data{x:&*x,y:&*y,positives:&p},Some(Data{x:&*vx,y:&*vy,positives:&vp}),&o)?;
 for t in &info.trace {println!("{:.3}s loss {:.5} m {:?} ev {} score {:?}",t.seconds,t.loss,t.negatives,t.evaluations,t.score);}
 println!("{:?} {:?}",info.seconds,info.chosen);
 let zx=m.encode(&b,Side::X,&*tx)?; let zy=m.encode(&b,Side::Y,&*ty)?;
 println!("{:?} {:?}",recall_at_k(&b,&zx,&zy,&tp,&[1])?,b.memory());
 Ok(())
}
